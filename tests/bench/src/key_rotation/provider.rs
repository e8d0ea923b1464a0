//! An issuer on loopback: discovery, a key set that changes, and absence.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::token::Issuer;

/// Keys that are published: the one that signs, and the one before.
const PUBLISHED: usize = 2;

/// Ends with its last owner.
pub(super) struct Provider {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: AbortHandle,
}

#[derive(Default)]
struct State {
    /// The newest first.
    keys: Vec<Arc<Issuer>>,
    made: u32,
    away: bool,
    fetched: u64,
    refused: u64,
}

impl Provider {
    pub(super) async fn start() -> anyhow::Result<Arc<Self>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let server = tokio::spawn(serve(listener, address, Arc::clone(&state)));
        let provider = Self {
            address,
            state,
            server: server.abort_handle(),
        };
        provider.rotate()?;
        Ok(Arc::new(provider))
    }

    pub(super) fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another key signs from now on; the one before stays published.
    pub(super) fn rotate(&self) -> anyhow::Result<()> {
        let mut state = self.state();
        state.made += 1;
        let key = Issuer::new(&self.issuer(), &format!("key-{}", state.made))?;
        state.keys.insert(0, Arc::new(key));
        state.keys.truncate(PUBLISHED);
        Ok(())
    }

    pub(super) fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    /// Key sets that were answered with.
    pub(super) fn fetched(&self) -> u64 {
        self.state().fetched
    }

    /// Connections that were closed without an answer.
    pub(super) fn refused(&self) -> u64 {
        self.state().refused
    }

    /// A token that nobody saw before, of the newest key or of the one before.
    pub(super) fn token(&self, of_the_one_before: bool) -> anyhow::Result<String> {
        let key = {
            let state = self.state();
            let at = usize::from(of_the_one_before).min(state.keys.len().saturating_sub(1));
            state.keys.get(at).cloned().context("no key")?
        };
        key.sign(json!({"sub": "alice", "aud": "shop"}))
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, address: SocketAddr, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        // It ends with its connection.
        tokio::spawn(async move { drop(answer(stream, address, &state).await) });
    }
}

async fn answer(
    mut stream: TcpStream,
    address: SocketAddr,
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    let Some(request) = lines.next_line().await? else {
        return Ok(());
    };
    while lines
        .next_line()
        .await?
        .is_some_and(|line| !line.is_empty())
    {}
    let body = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.away {
            state.refused += 1;
            return Ok(());
        }
        if request.contains("/.well-known/") {
            let issuer = format!("http://{address}");
            json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")})
        } else {
            state.fetched += 1;
            let keys: Vec<_> = state.keys.iter().map(|key| key.jwk()).collect();
            json!({ "keys": keys })
        }
    };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: max-age=2\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    write.write_all(head.as_bytes()).await?;
    write.write_all(body.as_bytes()).await
}
