//! The traffic of each check.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use mesh_auth::tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::judge::{self, Outcome};
use super::{Attempt, BANNER, ECHO, GRPC};
use crate::connect;
use crate::demo::app;
use crate::demo::client::{self, Answer, Connection, MARKER, Route, Upgraded, health};
use crate::demo::documents::{self, SERVICE_PORT};

/// Bytes sent through the echo.
const ECHO_BYTES: usize = 256 * 1024;
/// How long a service that speaks first may take before it does.
const GREETING: Duration = Duration::from_secs(5);
/// Requests whose time is taken.
const MEASURED: usize = 400;
/// Requests before those.
const WARM_UP: usize = 50;

impl Attempt<'_> {
    pub(super) async fn get(
        &self,
        route: &Route,
        path: &str,
        extra: &[(&'static str, &str)],
    ) -> Result<Answer, String> {
        let mut request = client::request(route, Method::GET, path);
        for (name, value) in extra.iter().chain([&(MARKER, self.marker.as_str())]) {
            if let Ok(value) = value.parse() {
                request.headers_mut().append(*name, value);
            }
        }
        client::send(route, request).await
    }

    pub(super) async fn web_to_orders(&self) -> Outcome {
        let route = self.route(self.web, self.orders, SERVICE_PORT);
        judge::told_caller(
            self.get(&route, "/", &[]).await,
            "orders",
            &documents::spiffe_id("web"),
        )
    }

    pub(super) async fn forged_header(&self) -> Outcome {
        let route = self.route(self.web, self.orders, SERVICE_PORT);
        let forged = documents::spiffe_id("payments");
        let header = format!("By=x;Hash={};Subject=\"\";URI={forged}", "0".repeat(64));
        let answer = self
            .get(&route, "/forged", &[("x-forwarded-client-cert", &header)])
            .await;
        judge::claim_removed(answer, &documents::spiffe_id("web"), &forged)
    }

    pub(super) async fn web_to_payments(&self) -> Outcome {
        let route = self.route(self.web, self.payments, SERVICE_PORT);
        judge::denied(self.get(&route, "/", &[]).await, "payments")
    }

    pub(super) async fn orders_to_payments(&self) -> Outcome {
        let route = self.route(self.web, self.orders, SERVICE_PORT);
        let answer = self.get(&route, "/call-payments", &[]).await;
        judge::called_on(answer, &documents::spiffe_id("orders"))
    }

    pub(super) async fn outsider_plaintext(&self) -> Outcome {
        let address = if self.mesh.captured {
            // What the outsider aims at is the application; what it meets is the sidecar.
            match self.orders.app.parse() {
                Ok(address) => address,
                Err(_) => self.orders.sidecar.inbound,
            }
        } else {
            self.orders.sidecar.inbound
        };
        let route = Route {
            place: self.mesh.outsider.clone(),
            address,
            authority: self.orders.service.clone(),
        };
        let mut request = client::request(&route, Method::GET, "/");
        if let Ok(value) = self.outsider_marker.parse() {
            request.headers_mut().insert(MARKER, value);
        }
        judge::refused(client::send(&route, request).await)
    }

    pub(super) async fn outsider_without_certificate(&self) -> Outcome {
        judge::turned_away(client::within(self.knock()).await)
    }

    /// TLS to the mesh port without a client certificate; what the other end did about it.
    async fn knock(&self) -> Result<String, String> {
        let expected = Self::identity_of_orders()?;
        let bundles = Arc::new(self.bundles()?);
        let config = tls::client_config(None, bundles, std::slice::from_ref(&expected), &[b"h2"])
            .map_err(|error| error.to_string())?;
        let address = self.orders.sidecar.mesh;
        let stream = self
            .mesh
            .outsider
            .connect(address)
            .await
            .map_err(|error| format!("no connection to {address}: {error}"))?;
        let connector = tokio_rustls::TlsConnector::from(config);
        let mut stream = match connector.connect(tls::server_name(), stream).await {
            Ok(stream) => stream,
            Err(error) => return Ok(error.to_string()),
        };
        // In TLS 1.3 a client is done before the server has looked at its certificate: the verdict comes as the first read.
        let mut answer = [0; 1024];
        let mut got = 0;
        loop {
            match stream.read(&mut answer[got..]).await {
                Ok(0) if got == 0 => return Ok("connection closed".to_owned()),
                Ok(0) => return Err(format!("it was answered with {got} bytes")),
                Ok(n) => got += n,
                Err(error) => return Ok(error.to_string()),
            }
            if got == answer.len() {
                return Err("it was answered at length".to_owned());
            }
        }
    }

    pub(super) async fn tcp_echo(&self) -> Outcome {
        judge::echoed(client::within(self.echo()).await)
    }

    /// Sends and ends one side while receiving; whether the same bytes came back and then the end.
    async fn echo(&self) -> Result<(usize, bool), String> {
        let (place, address) = self.opaque(ECHO)?;
        let stream = place
            .connect(address)
            .await
            .map_err(|e| format!("no connection: {e}"))?;
        let sent: Vec<u8> = self.marker.bytes().cycle().take(ECHO_BYTES).collect();
        let (mut from, mut to) = stream.into_split();
        let mut back = Vec::with_capacity(ECHO_BYTES);
        let send = async {
            to.write_all(&sent).await?;
            to.shutdown().await
        };
        tokio::try_join!(send, from.read_to_end(&mut back))
            .map_err(|e| format!("it broke: {e}"))?;
        Ok((back.len(), back == sent))
    }

    pub(super) async fn grpc(&self) -> Outcome {
        let route = self.route(self.web, self.orders, GRPC);
        let asked = client::within(async {
            let stream = route
                .place
                .connect(route.address)
                .await
                .map_err(|error| format!("no connection to {}: {error}", route.address))?;
            // Lives as long as the process: one per demo.
            let origin: &'static str =
                Box::leak(format!("http://{}", route.authority).into_boxed_str());
            let channel = connect::channel_over(stream, origin).await?;
            health::ask(channel, &self.marker)
                .await
                .map_err(|status| format!("{:?}: {}", status.code(), status.message()))
        })
        .await;
        judge::healthy(asked.map(|verdict| verdict.status))
    }

    pub(super) async fn server_speaks_first(&self) -> Outcome {
        judge::greeted(client::within(self.greeting()).await)
    }

    async fn greeting(&self) -> Result<(String, Duration, String), String> {
        let (place, address) = self.opaque(BANNER)?;
        let broke = |error: std::io::Error| format!("it broke: {error}");
        let mut stream = place
            .connect(address)
            .await
            .map_err(|e| format!("no connection: {e}"))?;
        let begin = Instant::now();
        let mut greeting = vec![0; app::BANNER.len()];
        tokio::time::timeout(GREETING, stream.read_exact(&mut greeting))
            .await
            .map_err(|_| "both sides waited for the other to speak".to_owned())?
            .map_err(broke)?;
        let waited = begin.elapsed();
        stream.write_all(b"QUIT\r\n").await.map_err(broke)?;
        let mut end = String::new();
        stream.read_to_string(&mut end).await.map_err(broke)?;
        Ok((String::from_utf8_lossy(&greeting).into_owned(), waited, end))
    }

    pub(super) async fn upgrade(&self) -> Outcome {
        let route = self.route(self.web, self.orders, SERVICE_PORT);
        let frame = text_frame(&self.marker);
        let back = async {
            let mut socket = Upgraded::open(&route, "/socket", &self.marker, &[]).await?;
            socket.echo(&frame).await
        };
        judge::upgraded(back.await.map(|back| back == frame))
    }

    pub(super) async fn latency(&self) -> Outcome {
        let through = median(&self.route(self.web, self.orders, SERVICE_PORT)).await;
        let straight = match self.direct() {
            Some(route) => median(&route).await,
            None => Err(format!("{} is no address", self.orders.app)),
        };
        judge::latency(through, straight, MEASURED)
    }
}

/// A masked text frame, as a browser sends it; the mask is zero so that the text stays readable.
pub(super) fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![
        0x81,
        0x80 | u8::try_from(text.len()).unwrap_or(0),
        0,
        0,
        0,
        0,
    ];
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// Median time of a request on one connection, kept open.
async fn median(route: &Route) -> Result<Duration, String> {
    let mut connection = Connection::open(route).await?;
    let mut times = Vec::with_capacity(MEASURED);
    for round in 0..WARM_UP + MEASURED {
        let begin = Instant::now();
        let answer = connection
            .send(client::request(route, Method::GET, "/"))
            .await?;
        if !answer.status.is_success() {
            return Err(format!("answered {}: {}", answer.status, answer.gist()));
        }
        if round >= WARM_UP {
            times.push(begin.elapsed());
        }
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}
