//! What workers know of each other: how many connections each serves, and a door for a new one.
//!
//! The kernel deals connections out to the workers' listeners by a hash. Of few that last, one worker often gets twice its
//! share, and stays with it. So a worker that has more than 1.25 times the mean passes a connection that it accepted, before
//! anything is read of it, to the worker that has least; one whose inbox is full or closed gets nothing, and the
//! connection is served where it is. Where many are accepted every second, only a few of them are passed on: they are brief,
//! and waking another thread takes longer than they do.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// Connections that wait in a worker's inbox, at most, for each listener.
const INBOX: usize = 32;
/// Connections that a listener passes on at once, at most.
const AT_ONCE: u32 = 64;
/// How long it then takes until another one may be.
const ANOTHER: Duration = Duration::from_millis(20);

/// A connection as it was accepted, that another worker can take.
pub trait Accept: Sized {
    /// Forgets it here.
    ///
    /// # Errors
    /// It is lost.
    fn pack(self) -> io::Result<Packed>;
    /// Takes it in on the current runtime.
    ///
    /// # Errors
    /// It is lost.
    fn unpack(packed: Packed) -> io::Result<Self>;
}

/// A connection between two workers.
#[derive(Debug)]
pub struct Packed {
    /// The socket, of which nothing was read.
    pub stream: TcpStream,
    /// Who connected, where that is asked for.
    pub address: Option<SocketAddr>,
}

impl<T: Accept> Accept for (T, SocketAddr) {
    fn pack(self) -> io::Result<Packed> {
        let address = Some(self.1);
        Ok(Packed {
            address,
            ..self.0.pack()?
        })
    }

    fn unpack(packed: Packed) -> io::Result<Self> {
        let address = packed.address.ok_or(io::ErrorKind::NotConnected)?;
        Ok((T::unpack(packed)?, address))
    }
}

/// A cache line of its own: the others only look at it.
#[derive(Debug)]
#[repr(align(128))]
struct Seat {
    /// Connections being served, or on their way here.
    open: AtomicUsize,
}

/// A connection that counts for a worker until this is dropped.
#[derive(Debug)]
pub struct Open {
    seats: Arc<[Seat]>,
    seat: usize,
}

impl Open {
    fn new(seats: &Arc<[Seat]>, seat: usize) -> Self {
        seats[seat].open.fetch_add(1, Relaxed);
        Self {
            seats: Arc::clone(seats),
            seat,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.seats[self.seat].open.fetch_sub(1, Relaxed);
    }
}

/// A connection that another worker passed on.
#[derive(Debug)]
pub struct Handed {
    /// The connection.
    pub packed: Packed,
    /// It counts here since it was sent.
    pub open: Open,
}

/// What one worker's listener knows of the same listener of the others.
#[derive(Debug)]
pub struct Desk {
    seats: Arc<[Seat]>,
    seat: usize,
    hand_over: HandOver,
    allowance: Allowance,
    /// The others' inboxes, its own included.
    doors: Vec<mpsc::Sender<Handed>>,
    inbox: Option<mpsc::Receiver<Handed>>,
}

/// All workers, as anybody may see them.
#[derive(Debug, Clone)]
pub struct Crew(Arc<[Seat]>);

impl Crew {
    /// The accepted connections that each worker serves, or that are on their way to it; 0 where it is the only one.
    pub fn open(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|seat| seat.open.load(Relaxed))
    }
}

/// Whether connections are passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandOver {
    /// To a worker that has fewer.
    On,
    /// Never: they stay where the kernel dealt them.
    Off,
}

/// Where a connection is served.
#[derive(Debug)]
pub enum Placed<T> {
    /// Here. Counted, unless there is one worker only.
    Here(T, Option<Open>),
    /// By another worker.
    Elsewhere,
}

/// So many workers, and the desks of each: one for each of its listeners.
pub fn form(workers: usize, listeners: usize, hand_over: HandOver) -> (Crew, Vec<Vec<Desk>>) {
    let seats: Arc<[Seat]> = (0..workers)
        .map(|_| Seat {
            open: AtomicUsize::new(0),
        })
        .collect();
    let mut desks: Vec<Vec<Desk>> = (0..workers).map(|_| Vec::new()).collect();
    for _ in 0..listeners {
        let (doors, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(INBOX)).unzip();
        for ((seat, desks), inbox) in desks.iter_mut().enumerate().zip(inboxes) {
            desks.push(Desk {
                seats: Arc::clone(&seats),
                seat,
                hand_over,
                allowance: Allowance::default(),
                doors: doors.clone(),
                inbox: Some(inbox),
            });
        }
    }
    (Crew(seats), desks)
}

impl Desk {
    /// Where connections from others come in; once, and only where there are others.
    pub fn inbox(&mut self) -> Option<mpsc::Receiver<Handed>> {
        self.inbox.take().filter(|_| self.seats.len() > 1)
    }

    /// Serves a new connection here or has another worker do it.
    ///
    /// # Errors
    /// It is lost.
    pub fn place<T: Accept>(&mut self, connection: T) -> io::Result<Placed<T>> {
        if self.seats.len() == 1 {
            return Ok(Placed::Here(connection, None));
        }
        let here = |connection| {
            let open = Open::new(&self.seats, self.seat);
            Placed::Here(connection, Some(open))
        };
        if self.hand_over == HandOver::Off {
            return Ok(here(connection));
        }
        let seats = self.seats.iter().zip(&self.doors);
        let seats = seats.map(|(seat, door)| (seat.open.load(Relaxed), door.capacity() > 0));
        let seat = least(seats, self.seat);
        if seat == self.seat {
            return Ok(here(connection));
        }
        let Ok(permit) = self.doors[seat].try_reserve() else {
            return Ok(here(connection));
        };
        if !self.allowance.take(Instant::now()) {
            return Ok(here(connection));
        }
        let packed = connection.pack()?;
        // Counted there before it is there: who accepts the next one knows of it.
        let open = Open::new(&self.seats, seat);
        permit.send(Handed { packed, open });
        Ok(Placed::Elsewhere)
    }
}

/// How many connections may be passed on.
#[derive(Debug, Default)]
struct Allowance {
    spent: u32,
    /// When it was last known how much is spent.
    since: Option<Instant>,
}

impl Allowance {
    /// Spends one, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let regained = now.duration_since(since).as_millis() / ANOTHER.as_millis();
        let regained = u32::try_from(regained).unwrap_or(u32::MAX);
        if regained >= self.spent {
            (self.spent, self.since) = (0, Some(now));
        } else {
            self.spent -= regained;
            self.since = Some(since + ANOTHER * regained);
        }
        let is_left = self.spent < AT_ONCE;
        self.spent += u32::from(is_left);
        is_left
    }
}

/// Who serves one connection more: `own`, unless it had more than 1.25 times the mean then, and another less by it. `seats` are
/// how many connections each has, and whether it takes one.
fn least(seats: impl Iterator<Item = (usize, bool)>, own: usize) -> usize {
    let (mut workers, mut all, mut mine) = (0, 1, 1);
    let mut fewest = (usize::MAX, own);
    for (seat, (open, takes_one)) in seats.enumerate() {
        workers += 1;
        all += open;
        if seat == own {
            mine += open;
        } else if takes_one {
            fewest = fewest.min((open, seat));
        }
    }
    if 4 * mine * workers > 5 * all && fewest.0.saturating_add(1) < mine {
        fewest.1
    } else {
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_too_many_passes_one_to_who_has_least() {
        for (open, own, expected) in [
            // The first one stays, the second goes to who has none.
            (&[0, 0][..], 0, 0),
            (&[1, 0], 0, 1),
            (&[1, 1], 0, 0),
            // A quarter more is let be.
            (&[4, 4], 1, 1),
            (&[9, 7], 0, 0),
            (&[10, 5], 0, 1),
            (&[3, 2, 0, 1], 0, 2),
            (&[3, 0, 0, 1], 0, 1),
            // Least of all is no reason.
            (&[1, 2, 2, 2], 0, 0),
        ] {
            let seats = open.iter().map(|open| (*open, true));
            assert_eq!(least(seats, own), expected, "{open:?}");
        }
        // Who takes none is passed over, and not forgotten in the mean.
        let seats = [(4, true), (0, false), (1, true)];
        assert_eq!(least(seats.into_iter(), 0), 2);
        assert_eq!(least([(4, true), (0, false)].into_iter(), 0), 0);
    }

    #[derive(Debug)]
    struct Pretended(TcpStream);

    impl Accept for Pretended {
        fn pack(self) -> io::Result<Packed> {
            let (stream, address) = (self.0, None);
            Ok(Packed { stream, address })
        }

        fn unpack(packed: Packed) -> io::Result<Self> {
            Ok(Self(packed.stream))
        }
    }

    fn connection() -> Pretended {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Pretended(TcpStream::connect(listener.local_addr().unwrap()).unwrap())
    }

    /// Connections of both workers.
    fn open(desk: &Desk) -> Vec<usize> {
        Crew(Arc::clone(&desk.seats)).open().collect()
    }

    /// Both workers' only desks.
    fn two() -> (Desk, Desk) {
        let (_, desks) = form(2, 1, HandOver::On);
        let mut desks = desks.into_iter().map(|mut desks| desks.remove(0));
        (desks.next().unwrap(), desks.next().unwrap())
    }

    #[tokio::test]
    async fn few_connections_that_one_worker_accepted_are_shared_to_within_a_quarter() {
        let (mut busy, mut idle) = two();
        let mut inbox = idle.inbox().unwrap();
        let placed: Vec<_> = (0..8).map(|_| busy.place(connection()).unwrap()).collect();
        assert_eq!(open(&busy), [5, 3]);
        // They count until they end, wherever they are.
        for _ in 0..3 {
            drop(inbox.recv().await.unwrap());
        }
        assert_eq!(open(&busy), [5, 0]);
        drop(placed);
        assert_eq!(open(&busy)[0], 0);
    }

    #[test]
    fn a_worker_that_stops_or_has_a_full_inbox_gets_nothing() {
        let (mut busy, mut stopping) = two();
        drop(stopping.inbox());
        let kept: Vec<_> = (0..8).map(|_| busy.place(connection()).unwrap()).collect();
        assert_eq!(open(&busy), [8, 0]);
        drop(kept);

        let (mut busy, mut stuck) = two();
        let _inbox = stuck.inbox();
        let mut kept = Vec::new();
        kept.extend((0..4 * INBOX).map(|_| busy.place(connection()).unwrap()));
        assert_eq!(open(&stuck)[1], INBOX);
    }

    #[test]
    fn of_many_connections_few_are_passed_on() {
        let mut allowance = Allowance::default();
        let began = Instant::now();
        let passed = |allowance: &mut Allowance, after: Duration| {
            (0..1_000).filter(|_| allowance.take(began + after)).count()
        };
        assert_eq!(passed(&mut allowance, Duration::ZERO), 64);
        assert_eq!(passed(&mut allowance, Duration::from_millis(19)), 0);
        // What is not a whole one yet is not forgotten.
        assert_eq!(passed(&mut allowance, Duration::from_millis(50)), 2);
        assert_eq!(passed(&mut allowance, Duration::from_millis(60)), 1);
        assert_eq!(passed(&mut allowance, Duration::from_secs(3_600)), 64);
    }

    #[test]
    fn a_single_worker_counts_nothing() {
        let (_, mut desks) = form(1, 1, HandOver::On);
        let desk = &mut desks[0][0];
        assert!(desk.inbox().is_none());
        assert!(matches!(
            desk.place(connection()),
            Ok(Placed::Here(_, None))
        ));
    }
}
