//! The access log: one JSON line per request or opaque connection, formatted by the worker, written by a thread.
//!
//! Safe by construction: a line has no query string, no header value but the user agent, no token and no claim, and every
//! text is escaped, so that a line is one line. Lines collect in the worker's buffer and go over when it is large or a while
//! has passed; a writer that falls behind, or a full disk, costs lines, which are counted, and never a request. Buffers come back from the
//! writer, so that lines go where earlier ones went.
//!
//! Schema of a line, all fields present unless said otherwise: `ts` (RFC 3339, start), `direction`, `protocol`, `method`,
//! `host`, `path`, `status` (0: none), `grpc_status` (gRPC only), `reason`, `decision_id` (denials), `policy` (if one
//! decided), `token_cached` and `decision_cached` (whether it was remembered, where it could be), `peer` and `workload` (SPIFFE IDs, where known), `source`, `port`, `sent` and `received` (body bytes),
//! `duration_us`, `phases_us` (phases that took time), `trace_id` (where there is one), `user_agent`, `error`.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::line::{self, LONGEST, Out, Said};
use super::observe::Entry;
use metrics::{Counter, counter};

/// A buffer of this size goes to the writer.
const FULL: usize = 64 << 10;
/// Buffers that wait for the writer.
const WAITING: usize = 16;
/// Buffers that are kept for reuse.
const SPARE: usize = 4;

/// Which lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Filter {
    /// Every request and connection.
    #[default]
    All,
    /// Refusals and failures.
    Errors,
    /// Refusals.
    Denied,
}

/// What is logged and where.
#[derive(Debug, Clone)]
pub struct AccessLogSettings {
    /// A file to append to, `-` for standard output.
    pub target: PathBuf,
    /// Which lines.
    pub filter: Filter,
    /// Share of the lines that are no refusals, `0.0..=1.0`.
    pub sample: f64,
}

/// The thread that writes.
#[derive(Debug)]
pub struct Writer {
    sender: SyncSender<Buffer>,
    spare: Spare,
    thread: JoinHandle<()>,
}

/// Buffers that were written. Locked once per buffer, and only if nobody else is at it.
type Spare = Arc<Mutex<Vec<Buffer>>>;

/// Lines that collected.
#[derive(Debug, Default)]
struct Buffer {
    /// Empty: there is none yet. Else it has room for [`FULL`] bytes and the line that makes it full.
    room: Vec<u8>,
    /// Bytes of lines in it, and how many lines.
    used: usize,
    lines: u64,
}

impl Writer {
    /// Opens the target and starts the thread.
    ///
    /// # Errors
    /// The file cannot be opened, or there is no thread to be had.
    pub fn start(target: &Path) -> io::Result<Self> {
        // No buffer of the standard library's between: what was written is what the operating system took.
        let lines = if target == Path::new("-") {
            Lines::new(File::from(io::stdout().as_fd().try_clone_to_owned()?))
        } else {
            open(target)?
        };
        let (sender, receiver) = sync_channel(WAITING);
        let spare = Spare::default();
        let written = Arc::clone(&spare);
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write(lines, &receiver, &written))?;
        Ok(Self {
            sender,
            spare,
            thread,
        })
    }

    /// Waits until everything that was handed over is written. Every worker's log must be gone by then.
    pub fn finish(self) {
        drop(self.sender);
        let _ = self.thread.join();
    }

    /// One worker's log.
    pub fn log(&self, settings: &AccessLogSettings, seed: u64) -> AccessLog {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let share = (settings.sample.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u32;
        AccessLog {
            collecting: RefCell::default(),
            spare: Arc::clone(&self.spare),
            sender: self.sender.clone(),
            filter: settings.filter,
            share,
            random: Cell::new(seed | 1),
            dropped: counter!("postern_access_log_lines_dropped_total"),
        }
    }
}

/// A full disk must not end the process or the log: the error is said once per streak and lines are dropped.
fn write(mut out: Lines<impl Write>, receiver: &Receiver<Buffer>, spare: &Spare) {
    let mut failing = false;
    while let Ok(mut buffer) = receiver.recv() {
        let result = out.append(&buffer.room[..buffer.used]);
        if let Err((lost, error)) = &result {
            counter!("postern_access_log_lines_dropped_total").increment(*lost);
            if !failing {
                tracing::error!(%error, "the access log cannot be written");
            }
        }
        failing = result.is_err();
        (buffer.used, buffer.lines) = (0, 0);
        let mut spare = spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE {
            spare.push(buffer);
        }
    }
}

/// Opens a file to append to, of which an earlier process may have left the last line cut.
fn open(target: &Path) -> io::Result<Lines<File>> {
    let file = OpenOptions::new().create(true).append(true).open(target)?;
    let mut lines = Lines::new(file);
    let about = lines.out.metadata()?;
    if about.is_file() && about.len() > 0 {
        let mut last = [0];
        // Who may write need not be allowed to read; then nothing is known of it.
        let read = File::open(target).and_then(|file| file.read_at(&mut last, about.len() - 1));
        lines.is_cut = matches!(read, Ok(1)) && last != *b"\n";
    }
    Ok(lines)
}

/// Whole lines, of which one may have been cut.
struct Lines<W> {
    out: W,
    /// The last line was not written to its end.
    is_cut: bool,
}

impl<W: Write> Lines<W> {
    fn new(out: W) -> Self {
        Self { out, is_cut: false }
    }

    /// Appends `lines`; after a cut line, beginning with a line of their own.
    ///
    /// # Errors
    /// How many of `lines` are not there, one that was cut among them, and why.
    fn append(&mut self, lines: &[u8]) -> Result<(), (u64, io::Error)> {
        if self.is_cut {
            match write_some(&mut self.out, b"\n") {
                (1, _) => self.is_cut = false,
                (_, error) => return Err((count(lines), error.unwrap_or_else(wrote_nothing))),
            }
        }
        let (written, error) = write_some(&mut self.out, lines);
        let Some(error) = error else {
            return Ok(());
        };
        let (written, left) = lines.split_at(written);
        self.is_cut = written.last().is_some_and(|last| *last != b'\n');
        Err((count(left), error))
    }
}

/// Lines that end in `text`.
fn count(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Writes as much of `bytes` as can be: how many, and why not the rest.
fn write_some(out: &mut impl Write, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => return (written, Some(wrote_nothing())),
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

fn wrote_nothing() -> io::Error {
    io::ErrorKind::WriteZero.into()
}

/// One worker's lines.
#[derive(Debug)]
pub struct AccessLog {
    collecting: RefCell<(Buffer, Said)>,
    spare: Spare,
    sender: SyncSender<Buffer>,
    filter: Filter,
    share: u32,
    random: Cell<u64>,
    dropped: Counter,
}

impl AccessLog {
    /// Logs what ended, if it is to be logged.
    pub fn log(&self, entry: &Entry<'_>) {
        if !self.wants(entry) {
            return;
        }
        let mut collecting = self.collecting.borrow_mut();
        let (buffer, said) = &mut *collecting;
        if buffer.room.is_empty() {
            *buffer = self.empty();
        }
        let mut out = Out::new(&mut buffer.room[buffer.used..]);
        line::write(&mut out, said, entry);
        match out.finish() {
            Some(length) => {
                buffer.used += length;
                buffer.lines += 1;
            }
            None => self.dropped.increment(1),
        }
        if buffer.used >= FULL {
            drop(collecting);
            self.flush();
        }
    }

    fn empty(&self) -> Buffer {
        let spare = self.spare.try_lock().ok().and_then(|mut spare| spare.pop());
        spare.unwrap_or_else(|| Buffer {
            room: vec![0; FULL + LONGEST],
            ..Buffer::default()
        })
    }

    fn wants(&self, entry: &Entry<'_>) -> bool {
        let denied = entry.verdict.is_some_and(|v| !v.allowed);
        match self.filter {
            Filter::All => {}
            Filter::Errors if denied || entry.ended.is_failed() => {}
            Filter::Denied if denied => {}
            Filter::Errors | Filter::Denied => return false,
        }
        denied || self.share == u32::MAX || self.roll() < self.share
    }

    /// xorshift64*: which lines are sampled is no secret.
    fn roll(&self) -> u32 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// Hands what collected to the writer.
    pub fn flush(&self) {
        let buffer = {
            let (buffer, _) = &mut *self.collecting.borrow_mut();
            if buffer.used == 0 {
                return;
            }
            std::mem::take(buffer)
        };
        let lines = buffer.lines;
        if self.sender.try_send(buffer).is_err() {
            self.dropped.increment(lines);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use http::Request;
    use mesh_trace::{Phase, Timeline, Verdict};

    use super::*;
    use crate::telemetry::observe::{Ended, EndedHttp, Line};
    use crate::worker::metrics::Direction;

    fn head(uri: &str) -> http::request::Parts {
        let request = Request::get(uri)
            .header("user-agent", "curl \"7\"")
            .header("authorization", "Bearer s3cret")
            .header("cookie", "sid=s3cret");
        request.body(()).unwrap().into_parts().0
    }

    fn verdict(denied: bool) -> Verdict {
        Verdict {
            allowed: !denied,
            reason: "denied_by_policy",
            policy: Some("shop/p".into()),
            id: 10,
            token_cached: Some(true),
            decision_cached: None,
        }
    }

    fn ended(head: &http::request::Parts, status: u16) -> Ended<'_> {
        Ended {
            line: Line::Http(EndedHttp {
                head,
                status: http::StatusCode::from_u16(status).ok(),
                grpc_status: None,
            }),
            peer_address: Some(([10, 0, 0, 1], 5).into()),
            port: 8080,
            peer_id: Some("spiffe://td/ns/a/sa/web".into()),
            own_id: None,
            sent: 1,
            received: 2,
            error: None,
        }
    }

    fn log(log: &AccessLog, ended: &Ended<'_>, denied: bool) {
        let mut timeline = Timeline::start();
        timeline.mark_at(Phase::Policy, timeline.started() + Duration::from_micros(7));
        log.log(&Entry {
            at: SystemTime::UNIX_EPOCH + Duration::from_micros(1_500_000),
            direction: Direction::Inbound,
            timeline: &timeline,
            started: None,
            verdict: Some(&verdict(denied)),
            ended,
        });
    }

    fn written(settings: &AccessLogSettings, cases: &[(u16, bool)]) -> Vec<serde_json::Value> {
        let writer = Writer::start(&settings.target).unwrap();
        let lines = writer.log(settings, 5);
        let head = head("http://orders/a/b?token=s3cret");
        for (status, denied) in cases {
            log(&lines, &ended(&head, *status), *denied);
        }
        drop(lines);
        writer.finish();
        let text = std::fs::read_to_string(&settings.target).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }

    fn settings(dir: &tempfile::TempDir, filter: Filter, sample: f64) -> AccessLogSettings {
        AccessLogSettings {
            target: dir.path().join("access.log"),
            filter,
            sample,
        }
    }

    #[test]
    fn a_line_is_one_json_object_without_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let lines = written(&settings(&dir, Filter::All, 1.0), &[(200, false)]);
        let line = &lines[0];
        assert_eq!(line["ts"], "1970-01-01T00:00:01.500000Z");
        assert_eq!(line["token_cached"], true);
        assert_eq!(line["decision_cached"], serde_json::Value::Null);
        assert_eq!(line["source"], "10.0.0.1:5");
        assert_eq!(line["path"], "/a/b");
        assert_eq!(line["status"], 200);
        assert_eq!(line["user_agent"], "curl \"7\"");
        assert_eq!(line["peer"], "spiffe://td/ns/a/sa/web");
        assert_eq!(line["phases_us"]["policy"], 7);
        assert_eq!(line["decision_id"], "000000000000000a");
        assert!(!line.to_string().contains("s3cret"));
    }

    #[test]
    fn the_longest_line_fits() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir, Filter::All, 1.0);
        let worst = vec![0xff; 2_000];
        let mut head = head("http://orders/");
        head.method = http::Method::from_bytes(&[b'M'; 2_000]).unwrap();
        let uri = format!("http://{}/{}", "h".repeat(2_000), "p".repeat(2_000));
        head.uri = uri.parse().unwrap();
        let agent = http::HeaderValue::from_bytes(&worst).unwrap();
        head.headers.insert("user-agent", agent);
        let id: Arc<str> = format!("spiffe://td/{}", "a".repeat(2_036)).into();
        let ended = Ended {
            peer_id: Some(Arc::clone(&id)),
            own_id: Some(id),
            sent: u64::MAX,
            received: u64::MAX,
            error: Some("protocol_error"),
            ..ended(&head, 200)
        };
        let writer = Writer::start(&settings.target).unwrap();
        let lines = writer.log(&settings, 5);
        for _ in 0..10 {
            log(&lines, &ended, true);
        }
        drop(lines);
        writer.finish();
        let text = std::fs::read_to_string(&settings.target).unwrap();
        assert_eq!(text.lines().count(), 10);
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["user_agent"], "\u{ff}".repeat(1_024));
        assert_eq!(line["sent"], u64::MAX);
    }

    #[test]
    fn filters_and_sampling_never_lose_a_refusal() {
        let cases = [(200, false), (404, false), (502, false), (403, true)];
        for (filter, sample, expected) in [
            (Filter::All, 1.0, vec![200, 404, 502, 403]),
            (Filter::Errors, 1.0, vec![502, 403]),
            (Filter::Denied, 1.0, vec![403]),
            (Filter::All, 0.0, vec![403]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let lines = written(&settings(&dir, filter, sample), &cases);
            let statuses: Vec<_> = lines
                .iter()
                .map(|l| l["status"].as_u64().unwrap())
                .collect();
            assert_eq!(statuses, expected, "{filter:?} {sample}");
        }
    }

    /// A disk with room for so many bytes.
    struct Disk {
        held: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room);
            if n == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= n;
            self.held.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_an_earlier_process_left_cut_is_followed_by_a_fresh_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        for (line, held) in [
            ("one", "one"),
            ("two\n", "one\ntwo\n"),
            ("six\n", "one\ntwo\nsix\n"),
        ] {
            let mut log = open(&path).expect("a log");
            log.append(line.as_bytes()).expect("written");
            assert_eq!(std::fs::read_to_string(&path).expect("a file"), held);
            assert!(log.append(b"").is_ok());
        }
    }

    #[test]
    fn a_full_disk_costs_the_lines_that_are_not_there_and_a_cut_one_is_followed_by_a_fresh_one() {
        let mut log = Lines::new(Disk {
            held: Vec::new(),
            room: 0,
        });
        // Room there is, and what of three lines is lost then.
        for (room, lost, held) in [
            (8, 1, "one\ntwo\n"),
            (3, 3, "one"),
            (0, 3, ""),
            (1, 3, "\n"),
            (12, 0, "one\ntwo\nsix\n"),
            (0, 3, ""),
            (6, 2, "one\ntw"),
            (13, 0, "\none\ntwo\nsix\n"),
        ] {
            log.out.held.clear();
            log.out.room = room;
            let told = log
                .append(b"one\ntwo\nsix\n")
                .err()
                .map_or(0, |(lost, _)| lost);
            let text = String::from_utf8(log.out.held.clone()).unwrap();
            assert_eq!((told, text.as_str()), (lost, held), "room for {room}");
        }
    }

    #[test]
    fn a_writer_that_cannot_write_loses_lines_and_nothing_else() {
        let full = Path::new("/dev/full");
        let writer = Writer::start(full).unwrap();
        let settings = AccessLogSettings {
            target: full.to_owned(),
            filter: Filter::All,
            sample: 1.0,
        };
        let lines = writer.log(&settings, 1);
        let head = head("http://orders/");
        for _ in 0..10_000 {
            log(&lines, &ended(&head, 200), false);
        }
        drop(lines);
        writer.finish();
    }
}
