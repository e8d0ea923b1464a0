//! An open loop: requests at moments fixed beforehand, latencies from those moments.
//!
//! A request that is due is sent late when every connection is busy, and its wait counts: what a proxy makes its callers
//! wait for cannot hide (no coordinated omission). Runs on a thread of its own with a precise timer.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::statistics::quantile;
use crate::wrk::Target;

/// Connections over which the requests are spread.
const CONNECTIONS: usize = 32;
/// Requests that may be due and unsent: a target this far behind is not at that rate at all.
const BACKLOG: usize = 100_000;

/// Latencies of one run.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latencies {
    pub(crate) rate: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) requests: usize,
}

struct Lane {
    stream: TcpStream,
    /// When the request under way was due.
    due: Option<Instant>,
    received: Vec<u8>,
}

/// Sends `rate` requests per second for `time`.
pub(crate) async fn run(
    target: &Target,
    headers: &str,
    rate: f64,
    time: Duration,
) -> anyhow::Result<Latencies> {
    let target = target.clone();
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", target.host);
    tokio::task::spawn_blocking(move || generate(&target, request.as_bytes(), rate, time))
        .await
        .context("the generator failed")?
}

fn generate(
    target: &Target,
    request: &[u8],
    rate: f64,
    time: Duration,
) -> anyhow::Result<Latencies> {
    // Poll returns when a request is due, not up to 50 us later.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let mut lanes = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(&target.address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        lanes.push(Lane {
            stream,
            due: None,
            received: Vec::with_capacity(8 << 10),
        });
    }
    let interval = Duration::from_secs_f64(1.0 / rate);
    let total = (time.as_secs_f64() * rate) as u32;
    let start = Instant::now() + Duration::from_millis(5);
    let mut next = 0;
    let mut waiting: VecDeque<Instant> = VecDeque::new();
    let mut latencies = Vec::with_capacity(total as usize);
    let deadline = start + time * 3 + Duration::from_secs(5);
    while latencies.len() < total as usize {
        let now = Instant::now();
        if now > deadline || waiting.len() > BACKLOG {
            bail!(
                "{} of {total} requests answered: the target does not keep up with {rate:.0}/s",
                latencies.len()
            );
        }
        while next < total && start + interval * next <= now {
            waiting.push_back(start + interval * next);
            next += 1;
        }
        for lane in lanes.iter_mut().filter(|l| l.due.is_none()) {
            let Some(due) = waiting.pop_front() else {
                break;
            };
            lane.stream.write_all(request)?;
            lane.due = Some(due);
        }
        let until = if next < total && waiting.is_empty() {
            (start + interval * next).saturating_duration_since(Instant::now())
        } else {
            Duration::from_millis(100)
        };
        wait(&lanes, until)?;
        for lane in lanes.iter_mut().filter(|l| l.due.is_some()) {
            if lane.read_response()?
                && let Some(due) = lane.due.take()
            {
                latencies.push(due.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
    let of = |q| quantile(&latencies, q).unwrap_or(f64::NAN);
    Ok(Latencies {
        rate,
        p50_us: of(0.5),
        p99_us: of(0.99),
        p999_us: of(0.999),
        requests: latencies.len(),
    })
}

fn wait(lanes: &[Lane], time: Duration) -> anyhow::Result<()> {
    let mut fds: Vec<_> = lanes
        .iter()
        .filter(|l| l.due.is_some())
        .map(|l| PollFd::new(&l.stream, PollFlags::IN))
        .collect();
    let timeout = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Lane {
    /// Whether the whole response is here.
    fn read_response(&mut self) -> anyhow::Result<bool> {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("a connection was closed under load"),
                Ok(n) => self.received.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
            if is_whole(&self.received)? {
                break;
            }
        }
        let whole = is_whole(&self.received)?;
        if whole {
            self.received.clear();
        }
        Ok(whole)
    }
}

/// Whether a response with a Content-Length (or none, and no body) is complete; anything but 200 is an error.
fn is_whole(received: &[u8]) -> anyhow::Result<bool> {
    let Some(end) = received.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Ok(false);
    };
    let head = std::str::from_utf8(&received[..end]).context("not an HTTP head")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("answered {:?}", head.lines().next().unwrap_or_default());
    }
    let length = head
        .lines()
        .filter_map(|l| l.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .context("a response without Content-Length")?;
    Ok(received.len() >= end + 4 + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_whole_with_its_last_byte() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert!(is_whole(text).unwrap());
        assert!(!is_whole(&text[..text.len() - 1]).unwrap());
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\n").unwrap());
        assert!(is_whole(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n").is_err());
    }

    #[tokio::test]
    async fn a_slow_server_shows_in_the_latencies_of_all_who_waited() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        // One thread per connection; the first answer of each takes 50 ms.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer_slowly(stream));
            }
        });
        let target = Target {
            address,
            host: "x".to_owned(),
        };
        let found = run(&target, "", 2_000.0, Duration::from_millis(200))
            .await
            .unwrap();
        assert_eq!(found.requests, 400);
        // 32 connections are busy for 50 ms, in which 100 requests come due: the wait of those counts.
        assert!(found.p99_us > 40_000.0, "{found:?}");
    }

    fn answer_slowly(mut stream: TcpStream) {
        let mut buffer = [0; 4096];
        let mut first = true;
        while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {
            if std::mem::take(&mut first) {
                std::thread::sleep(Duration::from_millis(50));
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    }
}
