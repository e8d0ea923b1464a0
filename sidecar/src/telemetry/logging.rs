//! Structured logs on stderr, bounded in volume.
//!
//! A peer that provokes a log line per packet must not fill a disk or slow the workers: at most [`LINES_PER_SECOND`]
//! lines are written in any second, except at level `trace`; what is left out is counted and said in the next second.

use std::io::{self, Write};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Lines written per second at most.
pub const LINES_PER_SECOND: u32 = 100;

/// Libraries of which only warnings are logged.
const QUIET: [&str; 6] = [
    "h2",
    "hyper",
    "hyper_util",
    "tokio_rustls",
    "tonic",
    "tower",
];

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogLevel {
    /// What needs somebody to act.
    Error,
    /// And what may.
    Warn,
    /// And what changes: certificates, snapshots, listeners.
    #[default]
    Info,
    /// And every connection.
    Debug,
    /// And what the protocol libraries do with every frame. Not bounded in volume: to look at a sidecar, not to run one.
    Trace,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// A word that is no log level or format.
#[derive(Debug, thiserror::Error)]
#[error("'{given}' is not one of {expected}")]
pub struct UnknownWord {
    given: String,
    expected: &'static str,
}

impl LogLevel {
    fn tracing(self) -> Level {
        match self {
            Self::Error => Level::ERROR,
            Self::Warn => Level::WARN,
            Self::Info => Level::INFO,
            Self::Debug => Level::DEBUG,
            Self::Trace => Level::TRACE,
        }
    }
}

impl FromStr for LogLevel {
    type Err = UnknownWord;

    fn from_str(given: &str) -> Result<Self, UnknownWord> {
        Ok(match given {
            "error" => Self::Error,
            "warn" => Self::Warn,
            "info" => Self::Info,
            "debug" => Self::Debug,
            "trace" => Self::Trace,
            _ => {
                return Err(UnknownWord {
                    given: given.into(),
                    expected: "error, warn, info, debug, trace",
                });
            }
        })
    }
}

impl FromStr for LogFormat {
    type Err = UnknownWord;

    fn from_str(given: &str) -> Result<Self, UnknownWord> {
        match given {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(UnknownWord {
                given: given.into(),
                expected: "json, text",
            }),
        }
    }
}

/// Logging is already set up in this process.
#[derive(Debug, thiserror::Error)]
#[error("logging is already set up in this process")]
pub struct AlreadyInitialized;

/// Sends this process's logs to stderr.
///
/// # Errors
/// When it was called before.
pub fn init_logging(level: LogLevel, format: LogFormat) -> Result<(), AlreadyInitialized> {
    let all = Targets::new().with_default(level.tracing());
    let (filter, most) = match level {
        LogLevel::Trace => (all, u32::MAX),
        // The protocol libraries log per frame below warn; their levels must not follow ours.
        _ => (
            all.with_targets(QUIET.map(|library| (library, Level::WARN)))
                .with_target("rustls", Level::ERROR),
            LINES_PER_SECOND,
        ),
    };
    let lines = fmt::layer()
        .with_writer(Limited::new(most))
        .with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry.with(lines.with_target(false)).try_init(),
    }
    .map_err(|_| AlreadyInitialized)
}

/// Decides which lines are written.
#[derive(Debug)]
struct Budget {
    per_second: u32,
    window: Option<Instant>,
    written: u32,
    suppressed: u64,
}

impl Budget {
    /// `None`: leave the line out. `Some(n)`: write it, and say first that `n` were left out.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let fresh = self
            .window
            .is_none_or(|start| now.saturating_duration_since(start) >= Duration::from_secs(1));
        if fresh {
            self.window = Some(now);
            self.written = 0;
        }
        if self.written >= self.per_second {
            self.suppressed += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Stderr with a budget.
#[derive(Debug)]
struct Limited {
    budget: Mutex<Budget>,
}

impl Limited {
    fn new(per_second: u32) -> Self {
        Self {
            budget: Mutex::new(Budget {
                per_second,
                window: None,
                written: 0,
                suppressed: 0,
            }),
        }
    }
}

/// Where one line goes.
enum Line {
    Stderr { suppressed: u64 },
    Nowhere,
}

impl Write for Line {
    /// tracing-subscriber hands over a whole line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Self::Stderr { suppressed } = self {
            let mut stderr = io::stderr().lock();
            if *suppressed > 0 {
                writeln!(
                    stderr,
                    "{{\"level\":\"WARN\",\"message\":\"log lines left out\",\"count\":{suppressed}}}"
                )?;
                *suppressed = 0;
            }
            stderr.write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Limited {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        let admitted = self
            .budget
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admit(Instant::now());
        match admitted {
            Some(suppressed) => Line::Stderr { suppressed },
            None => {
                metrics::counter!("postern_log_lines_suppressed_total").increment(1);
                Line::Nowhere
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_the_budget_and_the_next_second_says_how_many_were_left_out() {
        let mut budget = Budget {
            per_second: 3,
            window: None,
            written: 0,
            suppressed: 0,
        };
        let start = Instant::now();
        let admitted = (0..10).filter(|_| budget.admit(start).is_some()).count();
        assert_eq!(admitted, 3);
        assert_eq!(budget.admit(start + Duration::from_millis(999)), None);
        assert_eq!(budget.admit(start + Duration::from_secs(1)), Some(8));
        assert_eq!(budget.admit(start + Duration::from_secs(1)), Some(0));
    }

    #[test]
    fn levels_and_formats_parse_and_say_what_would_do() {
        assert_eq!("debug".parse::<LogLevel>().expect("level"), LogLevel::Debug);
        let error = "loud"
            .parse::<LogLevel>()
            .expect_err("no level")
            .to_string();
        assert!(error.contains("'loud'") && error.contains("error, warn, info, debug, trace"));
        assert_eq!(
            "text".parse::<LogFormat>().expect("format"),
            LogFormat::Text
        );
    }
}
