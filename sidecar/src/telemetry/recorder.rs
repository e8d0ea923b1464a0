//! The bounded recorder behind the `metrics` facade.
//!
//! Promises: memory never grows past `max_series` series, nor past [`MAX_SERIES_PER_METRIC`] for one metric; a new label
//! set beyond either is counted under the same labels with the value `other`, so that sums stay right and an attacker who
//! invents label values costs nothing. Label names and values are copied once, at registration.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, HistogramFn, Key, KeyName, Metadata, SharedString, Unit,
};

use super::histogram::{Histogram, add_f64, bounds_for};

/// Series that all metrics together may have.
pub const MAX_SERIES: usize = 10_000;
/// Series that one metric may have: one label that runs wild cannot starve the others.
pub const MAX_SERIES_PER_METRIC: usize = 1_000;
/// Longest label value kept; the rest is cut.
const MAX_LABEL_VALUE: usize = 256;
/// Label value of series that did not fit.
const OTHER: &str = "other";

/// A recorder is already installed in this process.
#[derive(Debug, thiserror::Error)]
#[error("a metrics recorder is already installed in this process")]
pub struct InstallError;

/// Handle on the metrics of this process: cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
}

impl Metrics {
    /// Metrics that may hold `max_series` series, not installed anywhere.
    pub fn new(max_series: usize) -> Self {
        Self {
            registry: Arc::new(Registry::new(max_series)),
        }
    }

    /// Makes a recorder the process's own.
    ///
    /// # Errors
    /// When the process has one already.
    pub fn install() -> Result<Self, InstallError> {
        let metrics = Self::new(MAX_SERIES);
        metrics::set_global_recorder(metrics.recorder()).map_err(|_| InstallError)?;
        Ok(metrics)
    }

    /// A recorder that feeds these metrics.
    pub fn recorder(&self) -> Recorder {
        Recorder {
            registry: Arc::clone(&self.registry),
        }
    }

    /// All metrics as Prometheus text, version 0.0.4.
    pub fn render(&self) -> String {
        super::exposition::render(&self.registry)
    }
}

/// The facade's side of [`Metrics`].
#[derive(Debug, Clone)]
pub struct Recorder {
    registry: Arc<Registry>,
}

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

/// One series' cell.
#[derive(Debug, Clone)]
pub enum Cell {
    /// A counter.
    Counter(Arc<CounterCell>),
    /// A gauge.
    Gauge(Arc<GaugeCell>),
    /// A histogram.
    Histogram(Arc<HistogramCell>),
}

/// A counter's number.
#[derive(Debug, Default)]
pub struct CounterCell(AtomicU64);
/// A gauge's number, as bits of an `f64`.
#[derive(Debug)]
pub struct GaugeCell(AtomicU64);
/// A histogram.
#[derive(Debug)]
pub struct HistogramCell(pub Histogram);

/// Label names and values in order of name.
pub type Labels = Vec<(String, String)>;

/// All series of one name.
#[derive(Debug)]
pub struct Family {
    /// What they are.
    pub kind: Kind,
    /// The series.
    pub series: HashMap<Labels, Cell>,
}

/// Everything that was registered.
#[derive(Debug)]
pub struct Registry {
    inner: Mutex<Inner>,
    max_series: usize,
    dropped: AtomicU64,
}

/// The registry's tables.
#[derive(Debug, Default)]
pub struct Inner {
    /// Families by name.
    pub families: BTreeMap<String, Family>,
    /// Descriptions by name.
    pub help: BTreeMap<String, String>,
    series: usize,
}

impl Registry {
    fn new(max_series: usize) -> Self {
        Self {
            inner: Mutex::default(),
            max_series,
            dropped: AtomicU64::new(0),
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

    fn describe(&self, name: &KeyName, text: &SharedString) {
        let mut inner = self.lock();
        // Descriptions come from our own code, one per metric; the cap only guards against a mistake in it.
        if inner.help.len() < self.max_series {
            inner
                .help
                .insert(metric_name(name.as_str()).into_owned(), text.to_string());
        }
    }

    /// The cell of `key`, or `None` when the name is taken by another kind of metric or nothing fits any more.
    fn register(&self, key: &Key, kind: Kind) -> Option<Cell> {
        let name = metric_name(key.name());
        let mut labels: Labels = key
            .labels()
            .map(|label| (label_name(label.key()).into_owned(), cut(label.value())))
            .collect();
        labels.sort();
        labels.dedup_by(|a, b| a.0 == b.0);

        let mut inner = self.lock();
        let Inner {
            families, series, ..
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
        if let Some(cell) = family.series.get(&labels) {
            return Some(cell.clone());
        }
        if *series >= self.max_series || family.series.len() >= MAX_SERIES_PER_METRIC {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            for (_, value) in &mut labels {
                OTHER.clone_into(value);
            }
            // One `other` series per metric may exceed the cap: the number of metrics is our own code's.
            if let Some(cell) = family.series.get(&labels) {
                return Some(cell.clone());
            }
        }
        let cell = Cell::new(kind, &name);
        family.series.insert(labels, cell.clone());
        *series += 1;
        Some(cell)
    }
}

impl Cell {
    fn new(kind: Kind, name: &str) -> Self {
        match kind {
            Kind::Counter => Self::Counter(Arc::default()),
            Kind::Gauge => Self::Gauge(Arc::new(GaugeCell(AtomicU64::new(0f64.to_bits())))),
            Kind::Histogram => {
                Self::Histogram(Arc::new(HistogramCell(Histogram::new(bounds_for(name)))))
            }
        }
    }
}

impl CounterCell {
    /// The number.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl GaugeCell {
    /// The number.
    pub fn value(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

impl CounterFn for CounterCell {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }
}

impl GaugeFn for GaugeCell {
    fn increment(&self, value: f64) {
        add_f64(&self.0, value);
    }

    fn decrement(&self, value: f64) {
        add_f64(&self.0, -value);
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

impl HistogramFn for HistogramCell {
    fn record(&self, value: f64) {
        self.0.record(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        self.0.record(value, count as u64);
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, key: KeyName, _unit: Option<Unit>, description: SharedString) {
        self.registry.describe(&key, &description);
    }

    fn describe_gauge(&self, key: KeyName, _unit: Option<Unit>, description: SharedString) {
        self.registry.describe(&key, &description);
    }

    fn describe_histogram(&self, key: KeyName, _unit: Option<Unit>, description: SharedString) {
        self.registry.describe(&key, &description);
    }

    fn register_counter(&self, key: &Key, _metadata: &Metadata<'_>) -> Counter {
        match self.registry.register(key, Kind::Counter) {
            Some(Cell::Counter(cell)) => Counter::from_arc(cell),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        match self.registry.register(key, Kind::Gauge) {
            Some(Cell::Gauge(cell)) => Gauge::from_arc(cell),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> metrics::Histogram {
        match self.registry.register(key, Kind::Histogram) {
            Some(Cell::Histogram(cell)) => metrics::Histogram::from_arc(cell),
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
    fn a_label_that_runs_wild_is_counted_under_other_and_starves_nobody() {
        let metrics = Metrics::new(MAX_SERIES);
        metrics::with_local_recorder(&metrics.recorder(), || {
            for i in 0..5_000 {
                metrics::counter!("postern_denied_total", "peer" => format!("p{i}")).increment(1);
            }
            metrics::counter!("postern_fine_total", "peer" => "p").increment(7);
        });
        let text = metrics.render();
        assert!(
            text.contains("postern_denied_total{peer=\"other\"} 4000\n"),
            "{text}"
        );
        assert!(text.contains("postern_fine_total{peer=\"p\"} 7\n"));
        assert!(text.contains("postern_telemetry_series_dropped_total 4000\n"));
        assert_eq!(
            text.lines()
                .filter(|l| l.starts_with("postern_denied_total{"))
                .count(),
            1_001
        );
    }

    #[test]
    fn the_total_number_of_series_is_bounded() {
        let metrics = Metrics::new(10);
        metrics::with_local_recorder(&metrics.recorder(), || {
            for i in 0..100 {
                metrics::gauge!(format!("postern_g{i}")).set(1.0);
            }
        });
        let inner = metrics.registry.lock();
        assert_eq!(inner.families.len(), 10);
        drop(inner);
        assert_eq!(metrics.registry.dropped(), 90);
    }

    #[test]
    fn a_name_taken_by_another_kind_does_nothing() {
        let metrics = Metrics::new(10);
        metrics::with_local_recorder(&metrics.recorder(), || {
            metrics::counter!("postern_x_total").increment(1);
            metrics::gauge!("postern_x_total").set(5.0);
        });
        assert!(metrics.render().contains("postern_x_total 1\n"));
    }

    #[test]
    fn names_are_made_legal() {
        assert_eq!(metric_name("postern_a_total"), "postern_a_total");
        assert_eq!(metric_name("9 lives\n"), "_9_lives_");
        assert_eq!(label_name("http.method"), "http_method");
        assert_eq!(metric_name(""), "_");
    }

    #[test]
    fn the_same_key_is_the_same_series_whatever_the_order_of_labels() {
        let metrics = Metrics::new(10);
        metrics::with_local_recorder(&metrics.recorder(), || {
            metrics::counter!("postern_x_total", "a" => "1", "b" => "2").increment(1);
            metrics::counter!("postern_x_total", "b" => "2", "a" => "1").increment(1);
        });
        assert!(
            metrics
                .render()
                .contains("postern_x_total{a=\"1\",b=\"2\"} 2\n")
        );
    }
}
