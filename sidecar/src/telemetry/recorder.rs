//! The bounded recorder behind the `metrics` facade.
//!
//! Promises: memory never grows past `max_series` series, nor past [`super::registry::MAX_SERIES_PER_METRIC`] for one metric; a new label
//! set beyond either is counted under the same labels with the value `other`, so that sums stay right and an attacker who
//! invents label values costs nothing. Label names and values are copied once per writer, at registration.
//!
//! A worker installs its [`WorkerRecorder`] for its thread: then the facade's macros give it cells of its own
//! ([`super::cell`]), found again without a lock. Counters and histograms are summed over workers; so are gauges, which is
//! right for sizes. A gauge that is no size belongs on the control thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use metrics::{Counter, Gauge, Key, KeyName, Metadata, SharedString, Unit};

use super::exposition::{Format, Sample};
use super::histogram::Histogram;
use super::registry::{Cell, Kind, MAX_SERIES, Owner, Registry};

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
            cells: AnyThread,
        }
    }

    /// A recorder for the calling thread alone; install it with [`metrics::set_default_local_recorder`].
    pub fn worker_recorder(&self) -> WorkerRecorder {
        Recorder {
            registry: Arc::clone(&self.registry),
            cells: OneWorker {
                owner: self.registry.owner(),
                known: RefCell::default(),
            },
        }
    }

    /// All metrics, and some that were looked up.
    pub fn render(&self, format: Format, samples: &[Sample]) -> String {
        super::exposition::render(&self.registry, format, samples)
    }
}

/// The facade's side of [`Metrics`].
#[derive(Debug, Clone)]
pub struct Recorder<C = AnyThread> {
    registry: Arc<Registry>,
    cells: C,
}

/// The facade's side of [`Metrics`] for one worker.
pub type WorkerRecorder = Recorder<OneWorker>;

/// Whose cells a [`Recorder`] gives.
pub trait Cells {
    /// The cell of a series. `None`: there is no place for it.
    fn cell(&self, registry: &Registry, key: &Key, kind: Kind) -> Option<Cell>;
}

/// Cells that threads without a recorder of their own share.
#[derive(Debug, Clone)]
pub struct AnyThread;

/// Cells of one worker.
#[derive(Debug)]
pub struct OneWorker {
    owner: Owner,
    /// Cells by what was asked for. As bounded as the registry: what was counted under `other` is not kept here.
    known: RefCell<HashMap<Key, Cell>>,
}

impl Cells for AnyThread {
    fn cell(&self, registry: &Registry, key: &Key, kind: Kind) -> Option<Cell> {
        let found = registry.register(key, kind, None);
        found.map(|(cell, _)| cell)
    }
}

impl Cells for OneWorker {
    fn cell(&self, registry: &Registry, key: &Key, kind: Kind) -> Option<Cell> {
        if let Some(cell) = self.known.borrow().get(key) {
            return Some(cell.clone());
        }
        let (cell, is_own) = registry.register(key, kind, Some(&self.owner))?;
        if is_own {
            self.known.borrow_mut().insert(key.clone(), cell.clone());
        }
        Some(cell)
    }
}

impl<C: Cells> Recorder<C> {
    fn cell(&self, key: &Key, kind: Kind) -> Option<Cell> {
        self.cells.cell(&self.registry, key, kind)
    }
}

impl WorkerRecorder {
    /// The histogram itself, for recordings that the facade cannot express. `None`: there is no place for it.
    pub fn histogram(&self, key: &Key) -> Option<Arc<Histogram>> {
        match self.cell(key, Kind::Histogram) {
            Some(Cell::Histogram(cell)) => Some(cell),
            _ => None,
        }
    }
}

impl<C: Cells> metrics::Recorder for Recorder<C> {
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
        Cell::counter(self.cell(key, Kind::Counter))
    }

    fn register_gauge(&self, key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        Cell::gauge(self.cell(key, Kind::Gauge))
    }

    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> metrics::Histogram {
        Cell::histogram(self.cell(key, Kind::Histogram))
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::MAX_SERIES_PER_METRIC;
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
        let text = metrics.render(Format::Prometheus, &[]);
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
        assert!(
            metrics
                .render(Format::Prometheus, &[])
                .contains("postern_x_total 1\n")
        );
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
                .render(Format::Prometheus, &[])
                .contains("postern_x_total{a=\"1\",b=\"2\"} 2\n")
        );
    }

    #[test]
    fn workers_count_alone_and_are_read_together() {
        let metrics = Metrics::new(MAX_SERIES);
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let metrics = metrics.clone();
                std::thread::spawn(move || {
                    let recorder = metrics.worker_recorder();
                    let _installed = metrics::set_default_local_recorder(&recorder);
                    let requests = metrics::counter!("postern_requests_total");
                    let took = metrics::histogram!("postern_took_seconds");
                    metrics::gauge!("postern_open").increment(2.0);
                    for _ in 0..20_000 {
                        requests.increment(1);
                        took.record(0.001);
                    }
                    // Resolved anew: the same cell.
                    metrics::counter!("postern_requests_total").increment(5);
                })
            })
            .collect();
        metrics::with_local_recorder(&metrics.recorder(), || {
            for _ in 0..100 {
                metrics::counter!("postern_requests_total").increment(1);
            }
        });
        for worker in workers {
            worker.join().expect("no panic");
        }
        let text = metrics.render(Format::Prometheus, &[]);
        assert!(text.contains("postern_requests_total 80120\n"), "{text}");
        assert!(text.contains("postern_open 8\n"));
        assert!(text.contains("postern_took_seconds_count 80000\n"));
        assert!(text.contains("postern_took_seconds_bucket{le=\"0.0008\"} 0\n"));
    }

    #[test]
    fn a_label_that_runs_wild_on_a_worker_is_bounded_too() {
        let metrics = Metrics::new(MAX_SERIES);
        let recorder = metrics.worker_recorder();
        metrics::with_local_recorder(&recorder, || {
            for i in 0..5_000 {
                metrics::counter!("postern_denied_total", "peer" => format!("p{i}")).increment(1);
            }
        });
        assert!(recorder.cells.known.borrow().len() <= MAX_SERIES_PER_METRIC);
        let text = metrics.render(Format::Prometheus, &[]);
        assert!(text.contains("postern_denied_total{peer=\"other\"} 4000\n"));
    }
}
