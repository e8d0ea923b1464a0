//! A closed loop of HTTP/2 requests on one connection with prior knowledge, shaped like small gRPC calls.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::wrk::Target;

/// A gRPC message of 16 bytes: not compressed, its length, content.
const MESSAGE: &[u8] = b"\0\0\0\0\x10sixteen bytes...";

/// Keeps `streams` requests in flight for some time. Returns how many were answered with 200.
pub(crate) async fn run(
    target: &Target,
    authorization: Option<&str>,
    streams: usize,
    time: Duration,
) -> anyhow::Result<u64> {
    let tcp = TcpStream::connect(&target.address).await?;
    tcp.set_nodelay(true)?;
    let (send, connection) = h2::client::handshake(tcp).await?;
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = format!("http://{}/bench.Bench/Call", target.host).parse()?;
    let headers = request.headers_mut();
    headers.insert("content-type", "application/grpc".parse()?);
    headers.insert("te", "trailers".parse()?);
    if let Some(token) = authorization {
        headers.insert("authorization", format!("Bearer {token}").parse()?);
    }
    let answered = Rc::new(Cell::new(0));
    let until = Instant::now() + time;
    let local = LocalSet::new();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..streams {
        let lane = lane(send.clone(), request.clone(), Rc::clone(&answered), until);
        tasks.spawn_local_on(lane, &local);
    }
    let lanes = async {
        while let Some(ended) = tasks.join_next().await {
            ended.context("a stream failed")??;
        }
        anyhow::Ok(())
    };
    local
        .run_until(async {
            tokio::select! {
                ended = lanes => ended,
                ended = connection => {
                    ended?;
                    bail!("the connection ended under load")
                }
            }
        })
        .await?;
    // Held until here: a connection that nobody can ask ends, and would look as if it had ended under load.
    drop(send);
    Ok(answered.get())
}

async fn lane(
    mut send: SendRequest<Bytes>,
    request: Request<()>,
    answered: Rc<Cell<u64>>,
    until: Instant,
) -> anyhow::Result<()> {
    while Instant::now() < until {
        send = send.ready().await?;
        let (response, mut body) = send.send_request(request.clone(), false)?;
        body.send_data(Bytes::from_static(MESSAGE), true)?;
        let response = response.await?;
        if response.status() != StatusCode::OK {
            bail!("a call was answered with {}", response.status());
        }
        let mut data = response.into_body();
        while let Some(chunk) = data.data().await {
            data.flow_control().release_capacity(chunk?.len())?;
        }
        answered.set(answered.get() + 1);
    }
    Ok(())
}
