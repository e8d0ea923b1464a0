//! A look at every packet that crosses the hub, for texts that must not be there.
//!
//! A packet socket of the hub's namespace sees what passes the bridge's ports, which is everything between workloads.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};

/// Every protocol (`ETH_P_ALL`), in network byte order.
const ALL_PROTOCOLS: u32 = 0x0003_u16.to_be() as u32;
/// Bytes of packets that may wait to be looked at.
const BUFFER: usize = 16 << 20;
/// How often the thread looks whether to stop.
const TICK: Duration = Duration::from_millis(50);
/// Largest packet, segmentation offload included.
const MOST: usize = 70_000;
/// The port that sidecars speak mTLS on.
const MESH_PORT: u16 = 15008;

/// What was seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Packets looked at.
    pub(super) packets: usize,
    /// Those to or from a mesh port that carried data.
    pub(super) mesh_packets: usize,
    /// Packets in which each text occurred.
    pub(super) hits: Vec<usize>,
}

/// A running look.
pub(super) struct Sniffer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Sniffer {
    /// Starts looking for some texts.
    pub(super) fn start(texts: &[String]) -> Result<Self, String> {
        let socket = open().map_err(|error| format!("no packet socket: {error}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let texts = texts.to_vec();
        let thread = std::thread::Builder::new()
            .name("wire".to_owned())
            .spawn(move || look(&socket, &texts, &told))
            .map_err(|error| format!("no thread: {error}"))?;
        Ok(Self { stop, thread })
    }

    /// Stops once nothing is waiting, and says what was seen.
    pub(super) fn stop(self) -> Result<Seen, String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| "the thread was lost".to_owned())
    }
}

fn open() -> io::Result<OwnedFd> {
    let protocol = std::num::NonZeroU32::new(ALL_PROTOCOLS).map(Protocol::from_raw);
    let socket = socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(TICK))?;
    set_socket_recv_buffer_size(&socket, BUFFER)?;
    Ok(socket)
}

fn look(socket: &OwnedFd, texts: &[String], stop: &AtomicBool) -> Seen {
    let mut seen = Seen {
        packets: 0,
        mesh_packets: 0,
        hits: vec![0; texts.len()],
    };
    let mut packet = vec![0; MOST];
    loop {
        match recv(socket.as_fd(), &mut packet[..], RecvFlags::empty()) {
            Ok((n, _)) => count(&mut seen, &packet[..n], texts),
            // Nothing came for a tick: what was sent before the order to stop has been looked at.
            Err(_) if stop.load(Ordering::Relaxed) => return seen,
            Err(_) => {}
        }
    }
}

fn count(seen: &mut Seen, packet: &[u8], texts: &[String]) {
    seen.packets += 1;
    if tcp_ports(packet).is_some_and(|ports| ports.contains(&MESH_PORT)) {
        seen.mesh_packets += 1;
    }
    for (text, hits) in texts.iter().zip(&mut seen.hits) {
        if contains(packet, text.as_bytes()) {
            *hits += 1;
        }
    }
}

/// Source and destination port of an Ethernet frame with TCP over IPv4 or IPv6.
fn tcp_ports(frame: &[u8]) -> Option<[u16; 2]> {
    let packet = frame.get(14..)?;
    let segment = match frame.get(12..14)? {
        [0x08, 0x00] if *packet.get(9)? == 6 => {
            packet.get(usize::from(packet.first()? & 0x0f) * 4..)?
        }
        [0x86, 0xdd] if *packet.get(6)? == 6 => packet.get(40..)?,
        _ => return None,
    };
    let port = |at: usize| {
        Some(u16::from_be_bytes([
            *segment.get(at)?,
            *segment.get(at + 1)?,
        ]))
    };
    Some([port(0)?, port(2)?])
}

fn contains(packet: &[u8], text: &[u8]) -> bool {
    !text.is_empty() && packet.windows(text.len()).any(|window| window == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: [u8; 2], ip: &[u8], ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(kind);
        frame.extend(ip);
        frame.extend(ports.into_iter().flat_map(u16::to_be_bytes));
        frame.extend(payload);
        frame
    }

    #[test]
    fn texts_and_mesh_ports_are_found_in_both_families() {
        let mut v4 = [0; 20];
        (v4[0], v4[9]) = (0x45, 6);
        let mut v6 = [0; 40];
        (v6[0], v6[6]) = (0x60, 6);
        let texts = ["secret".to_owned(), "other".to_owned()];
        let mut seen = Seen {
            packets: 0,
            mesh_packets: 0,
            hits: vec![0, 0],
        };
        count(
            &mut seen,
            &frame([0x08, 0], &v4, [40_000, 15_008], b"a secret b"),
            &texts,
        );
        count(
            &mut seen,
            &frame([0x86, 0xdd], &v6, [15_008, 40_000], b"nothing"),
            &texts,
        );
        count(
            &mut seen,
            &frame([0x08, 0x06], &v4, [15_008, 15_008], b"arp"),
            &texts,
        );
        count(&mut seen, b"short", &texts);
        assert_eq!(
            seen,
            Seen {
                packets: 4,
                mesh_packets: 2,
                hits: vec![1, 0]
            }
        );
    }
}
