//! Who may come in, and how much of it: the kernel says which user is at the other end of a connection.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::transport::server::Connected;
use tonic::{Request, Status};

use super::authority::Rewriter;

/// Connections of users who may come in.
const MAX_CONNECTIONS: usize = 64;
/// Connections of everybody else, who are told no: they cannot take the places of those who may.
const MAX_STRANGERS: usize = 8;
/// Calls that are open at the same time, over all connections.
const MAX_CALLS: usize = 1_024;
/// Steady pace of calls and of messages on streams.
const PACE: Duration = Duration::from_millis(2);
/// How many may come at once before the pace is kept.
const BURST: u32 = 500;

/// The users whose processes are handed the workload's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed(Vec<u32>);

impl Allowed {
    /// These; with none named, the sidecar's own user.
    pub fn new(uids: &[u32]) -> Self {
        if uids.is_empty() {
            return Self(vec![rustix::process::geteuid().as_raw()]);
        }
        Self(uids.to_vec())
    }

    /// Whether a process of this user may come in.
    pub fn allows(&self, uid: u32) -> bool {
        self.0.contains(&uid)
    }

    /// Permissions of the socket: its owner alone where nobody else may come in, else everybody, and the kernel's word on
    /// who it is decides.
    pub fn socket_mode(&self) -> u32 {
        let own = rustix::process::geteuid().as_raw();
        if self.0.iter().all(|uid| *uid == own) {
            0o600
        } else {
            0o666
        }
    }

    /// The users.
    pub fn uids(&self) -> &[u32] {
        &self.0
    }
}

/// Whether the process at the other end may be handed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// It may.
    Admitted,
    /// It runs as another user.
    Stranger {
        /// As the kernel says; `None` when it does not say.
        uid: Option<u32>,
    },
}

/// Bounds on what is open.
#[derive(Debug, Clone)]
pub struct Admission {
    allowed: Allowed,
    connections: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    next_free: Arc<Mutex<Instant>>,
}

impl Admission {
    /// Nothing open yet.
    pub fn new(allowed: Allowed) -> Self {
        Self {
            allowed,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            strangers: Arc::new(Semaphore::new(MAX_STRANGERS)),
            calls: Arc::new(Semaphore::new(MAX_CALLS)),
            next_free: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// The connection with its caller; `None` when too many are open.
    pub fn connection(&self, io: UnixStream) -> Option<Accepted> {
        let uid = io.peer_cred().ok().map(|credentials| credentials.uid());
        let (caller, places) = match uid {
            Some(uid) if self.allowed.allows(uid) => (Caller::Admitted, &self.connections),
            uid => (Caller::Stranger { uid }, &self.strangers),
        };
        let permit = Arc::clone(places).try_acquire_owned().ok()?;
        Some(Accepted {
            io,
            caller,
            authority: Rewriter::new(),
            _permit: permit,
        })
    }

    /// A place for one call of a caller who may make it. Waits where calls come faster than the pace.
    ///
    /// # Errors
    /// PERMISSION_DENIED for another user, RESOURCE_EXHAUSTED when too many are open.
    pub async fn call<T>(&self, request: &Request<T>) -> Result<OwnedSemaphorePermit, Status> {
        match request.extensions().get::<Caller>() {
            Some(Caller::Admitted) => {}
            Some(Caller::Stranger { uid: Some(uid) }) => {
                return Err(Status::permission_denied(format!(
                    "processes of user {uid} are not entitled to this workload's identity"
                )));
            }
            _ => return Err(Status::permission_denied("it is not known who asks")),
        }
        let permit = Arc::clone(&self.calls)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted("too many calls are open on this socket"))?;
        self.pace().await;
        Ok(permit)
    }

    /// Waits until one more message may be worked on.
    pub async fn pace(&self) {
        let now = Instant::now();
        let start = {
            let mut next = self
                .next_free
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let start = (*next).max(now);
            *next = start + PACE;
            start
        };
        let allowance = PACE * BURST;
        if let Some(early) = (start - now).checked_sub(allowance) {
            tokio::time::sleep(early).await;
        }
    }
}

/// A connection with its caller.
pub struct Accepted {
    io: UnixStream,
    caller: Caller,
    authority: Rewriter,
    /// Counts against the limit of connections while it lives.
    _permit: OwnedSemaphorePermit,
}

impl Accepted {
    /// Who is at the other end.
    pub fn caller(&self) -> Caller {
        self.caller
    }

    /// Waits for the first byte.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn first_byte(&self) -> io::Result<()> {
        self.io.readable().await
    }
}

impl Connected for Accepted {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.authority.apply(&mut buf.filled_mut()[before..]);
        read
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_users_come_in_and_without_names_only_our_own() {
        let own = rustix::process::geteuid().as_raw();
        let other = own + 1;
        for (named, who, expected) in [
            (&[][..], own, true),
            (&[], other, false),
            (&[other], other, true),
            (&[other], own, false),
            (&[own, other], own, true),
        ] {
            assert_eq!(Allowed::new(named).allows(who), expected, "{named:?} {who}");
        }
        assert_eq!(Allowed::new(&[]).socket_mode(), 0o600);
        assert_eq!(Allowed::new(&[own]).socket_mode(), 0o600);
        assert_eq!(Allowed::new(&[own, other]).socket_mode(), 0o666);
    }

    #[tokio::test]
    async fn a_stranger_is_refused_and_cannot_take_the_places_of_others() {
        let admission = Admission::new(Allowed::new(&[rustix::process::geteuid().as_raw() + 1]));
        let mut held = Vec::new();
        let mut pairs = Vec::new();
        while let Some(accepted) = {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            pairs.push(theirs);
            admission.connection(ours)
        } {
            assert!(matches!(accepted.caller(), Caller::Stranger { .. }));
            held.push(accepted);
        }
        assert_eq!(held.len(), MAX_STRANGERS);
        assert_eq!(admission.connections.available_permits(), MAX_CONNECTIONS);
        let mut request = Request::new(());
        request.extensions_mut().insert(held[0].caller());
        let refused = admission.call(&request).await.expect_err("a stranger");
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        // A request that came in no way that is known is refused as well.
        let refused = admission.call(&Request::new(())).await.expect_err("nobody");
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_beyond_the_burst_are_paced_and_too_many_open_ones_refused() {
        let admission = Admission::new(Allowed::new(&[]));
        let mut request = Request::new(());
        request.extensions_mut().insert(Caller::Admitted);
        let begun = Instant::now();
        let mut open = Vec::new();
        for _ in 0..MAX_CALLS {
            open.push(admission.call(&request).await.expect("a place"));
        }
        let took = begun.elapsed();
        let least = PACE * (u32::try_from(MAX_CALLS).expect("small") - BURST - 1);
        assert!(took >= least, "{took:?} for {MAX_CALLS} calls");
        let refused = admission.call(&request).await.expect_err("too many");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        open.pop();
        assert!(admission.call(&request).await.is_ok());
    }
}
