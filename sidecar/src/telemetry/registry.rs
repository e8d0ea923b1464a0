//! All series, by name and labels, in bounded memory; each with the cells of those who write it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Counter, Gauge, Key, KeyName, SharedString};

use super::cell::{CounterCell, GaugeCell, Slab, Writers};
use super::histogram::{Histogram, Reading, bounds_for};

/// Series that all metrics together may have.
pub const MAX_SERIES: usize = 10_000;
/// Series that one metric may have: one label that runs wild cannot starve the others.
pub const MAX_SERIES_PER_METRIC: usize = 1_000;
/// Longest label value kept; the rest is cut.
const MAX_LABEL_VALUE: usize = 256;
/// Label value of series that did not fit.
const OTHER: &str = "other";

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Distribution.
    Histogram,
}

/// One writer's part of a series.
#[derive(Debug, Clone)]
pub enum Cell {
    /// A counter.
    Counter(Arc<CounterCell>),
    /// A gauge.
    Gauge(Arc<GaugeCell>),
    /// A histogram.
    Histogram(Arc<Histogram>),
}

/// A series: its writers and their cells.
#[derive(Debug, Default)]
pub struct Series(Vec<(usize, Cell)>);

/// What a series says.
#[derive(Debug)]
pub enum Value {
    /// Of a counter.
    Counter(u64),
    /// Of a gauge.
    Gauge(f64),
    /// Of a histogram.
    Histogram(Reading),
}

impl Series {
    fn of(&self, owner: usize) -> Option<&Cell> {
        let mut cells = self.0.iter();
        cells.find(|(o, _)| *o == owner).map(|(_, cell)| cell)
    }

    /// The sum of its cells. `None`: it has none.
    pub fn read(&self) -> Option<Value> {
        let mut cells = self.0.iter().map(|(_, cell)| cell.read());
        let first = cells.next()?;
        Some(cells.fold(first, |sum, value| match (sum, value) {
            (Value::Counter(a), Value::Counter(b)) => Value::Counter(a.wrapping_add(b)),
            (Value::Gauge(a), Value::Gauge(b)) => Value::Gauge(a + b),
            (Value::Histogram(mut a), Value::Histogram(b)) => {
                a.merge(&b);
                Value::Histogram(a)
            }
            // The cells of a family are of one kind.
            (sum, _) => sum,
        }))
    }
}

/// Label names and values in order of name.
pub type Labels = Vec<(String, String)>;

/// All series of one name.
#[derive(Debug)]
pub struct Family {
    /// What they are.
    pub kind: Kind,
    /// The series.
    pub series: HashMap<Labels, Series>,
}

/// Everything that was registered.
#[derive(Debug)]
pub struct Registry {
    inner: Mutex<Inner>,
    max_series: usize,
    dropped: AtomicU64,
    /// The next worker's number.
    owners: AtomicUsize,
}

/// The registry's tables.
#[derive(Debug, Default)]
pub struct Inner {
    /// Families by name.
    pub families: BTreeMap<String, Family>,
    /// Descriptions by name.
    pub help: BTreeMap<String, String>,
    series: usize,
    /// Numbers of everybody's cells.
    slab: Slab,
}

/// A worker, as far as its cells are concerned.
#[derive(Debug)]
pub struct Owner {
    number: usize,
    writers: Writers,
    slab: RefCell<Slab>,
}

/// The owner of the cells that threads without a recorder of their own share.
const EVERYBODY: usize = 0;

impl Registry {
    /// Room for `max_series` series.
    pub fn new(max_series: usize) -> Self {
        Self {
            inner: Mutex::default(),
            max_series,
            dropped: AtomicU64::new(0),
            owners: AtomicUsize::new(EVERYBODY + 1),
        }
    }

    /// The tables. Poisoning is ignored: every write leaves them whole.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of registrations that did not get a series of their own.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// An owner of cells that the calling thread alone writes.
    pub fn owner(&self) -> Owner {
        Owner {
            number: self.owners.fetch_add(1, Ordering::Relaxed),
            writers: Writers::this_thread(),
            slab: RefCell::default(),
        }
    }

    /// Keeps a metric's description.
    pub fn describe(&self, name: &KeyName, text: &SharedString) {
        let mut inner = self.lock();
        // Descriptions come from our own code, one per metric; the cap only guards against a mistake in it.
        if inner.help.len() < self.max_series {
            inner
                .help
                .insert(metric_name(name.as_str()).into_owned(), text.to_string());
        }
    }

    /// The cell of `key` that `owner`, or everybody, adds to, and whether the series is its own; or `None` when the name is taken by another kind of metric
    /// or nothing fits any more.
    pub fn register(&self, key: &Key, kind: Kind, owner: Option<&Owner>) -> Option<(Cell, bool)> {
        let name = metric_name(key.name());
        let mut labels: Labels = key
            .labels()
            .map(|label| (label_name(label.key()).into_owned(), cut(label.value())))
            .collect();
        labels.sort();
        labels.dedup_by(|a, b| a.0 == b.0);

        let mut inner = self.lock();
        let Inner {
            families,
            series,
            slab,
            ..
        } = &mut *inner;
        if !families.contains_key(name.as_ref()) && *series >= self.max_series {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let family = families.entry(name.to_string()).or_insert_with(|| Family {
            kind,
            series: HashMap::new(),
        });
        if family.kind != kind {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let is_full = *series >= self.max_series || family.series.len() >= MAX_SERIES_PER_METRIC;
        let is_own = !is_full || family.series.contains_key(&labels);
        if !is_own {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            for (_, value) in &mut labels {
                OTHER.clone_into(value);
            }
            // One `other` series per metric may exceed the cap: the number of metrics is our own code's.
        }
        let held = family.series.entry(labels).or_insert_with(|| {
            *series += 1;
            Series::default()
        });
        let number = owner.map_or(EVERYBODY, |o| o.number);
        if let Some(cell) = held.of(number) {
            return Some((cell.clone(), is_own));
        }
        let cell = match owner {
            None => Cell::new(kind, &name, slab, Writers::Many),
            Some(owner) => Cell::new(kind, &name, &mut owner.slab.borrow_mut(), owner.writers),
        };
        held.0.push((number, cell.clone()));
        Some((cell, is_own))
    }
}

impl Cell {
    fn new(kind: Kind, name: &str, slab: &mut Slab, writers: Writers) -> Self {
        match kind {
            Kind::Counter => Self::Counter(Arc::new(CounterCell::new(slab, writers))),
            Kind::Gauge => Self::Gauge(Arc::new(GaugeCell::new(slab, writers))),
            Kind::Histogram => Self::Histogram(Arc::new(Histogram::new(bounds_for(name), writers))),
        }
    }

    fn read(&self) -> Value {
        match self {
            Self::Counter(cell) => Value::Counter(cell.value()),
            Self::Gauge(cell) => Value::Gauge(cell.value()),
            Self::Histogram(cell) => Value::Histogram(cell.read()),
        }
    }

    /// A handle.
    pub fn counter(found: Option<Self>) -> Counter {
        match found {
            Some(Self::Counter(cell)) => Counter::from_arc(cell),
            _ => Counter::noop(),
        }
    }

    /// A handle.
    pub fn gauge(found: Option<Self>) -> Gauge {
        match found {
            Some(Self::Gauge(cell)) => Gauge::from_arc(cell),
            _ => Gauge::noop(),
        }
    }

    /// A handle.
    pub fn histogram(found: Option<Self>) -> metrics::Histogram {
        match found {
            Some(Self::Histogram(cell)) => metrics::Histogram::from_arc(cell),
            _ => metrics::Histogram::noop(),
        }
    }
}

/// The name with everything that Prometheus does not allow replaced by `_`.
fn metric_name(name: &str) -> Cow<'_, str> {
    sanitize(name, |c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

fn label_name(name: &str) -> Cow<'_, str> {
    sanitize(name, |c| c.is_ascii_alphanumeric() || c == '_')
}

fn sanitize(name: &str, allowed: impl Fn(char) -> bool) -> Cow<'_, str> {
    let starts_well = name.starts_with(|c: char| !c.is_ascii_digit());
    if starts_well && name.chars().all(&allowed) {
        return Cow::Borrowed(name);
    }
    let prefix = if starts_well { "" } else { "_" };
    let rest = name.chars().map(|c| if allowed(c) { c } else { '_' });
    Cow::Owned(prefix.chars().chain(rest).collect())
}

fn cut(value: &str) -> String {
    let mut end = value.len().min(MAX_LABEL_VALUE);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_legal() {
        assert_eq!(metric_name("postern_a_total"), "postern_a_total");
        assert_eq!(metric_name("9 lives\n"), "_9_lives_");
        assert_eq!(label_name("http.method"), "http_method");
        assert_eq!(metric_name(""), "_");
    }
}
