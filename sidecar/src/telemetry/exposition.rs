//! Prometheus' text format 0.0.4 and OpenMetrics 1.0, which also carries exemplars.
//!
//! Every metric has HELP and TYPE lines, names and label sets come in a fixed order, and every histogram adds up.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::exemplar::Exemplar;
use super::registry::{Family, Kind, Labels, Registry, Value};

/// Remembers how much the last scrape took, so that the next one allocates once.
static LAST_SIZE: AtomicUsize = AtomicUsize::new(4096);

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What an `accept` field asks for (RFC 9110 §12.5.1): OpenMetrics where it is named and nothing is liked better.
    pub fn accepted(accept: Option<&str>) -> Self {
        let (mut open, mut plain) = (0.0, 0.0);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let weight = parts
                .find_map(|p| p.strip_prefix("q="))
                .map_or(Some(1.0), |q| q.parse::<f64>().ok())
                .unwrap_or(0.0);
            let best = match media.to_ascii_lowercase().as_str() {
                "application/openmetrics-text" => &mut open,
                "text/plain" | "text/*" | "*/*" => &mut plain,
                _ => continue,
            };
            *best = weight.max(*best);
        }
        if open > 0.0 && open >= plain {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// `content-type` of what [`render`] returns.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A number that is looked up when somebody asks, instead of being kept.
#[derive(Debug)]
pub struct Sample {
    /// The metric's name.
    pub name: &'static str,
    /// What it is; no histogram.
    pub kind: Kind,
    /// Its description.
    pub help: &'static str,
    /// Labels in order of name. Samples of one name come one after the other.
    pub labels: Labels,
    /// The number.
    pub value: f64,
}

impl Sample {
    /// One without labels.
    pub fn new(name: &'static str, kind: Kind, help: &'static str, value: f64) -> Self {
        Self {
            name,
            kind,
            help,
            labels: Labels::new(),
            value,
        }
    }
}

/// Writes all metrics of a registry, and some that were looked up.
pub fn render(registry: &Registry, format: Format, samples: &[Sample]) -> String {
    let mut page = Page {
        out: String::with_capacity(LAST_SIZE.load(Ordering::Relaxed) + 1024),
        format,
    };
    let dropped = "postern_telemetry_series_dropped_total";
    page.header(
        dropped,
        Kind::Counter,
        "Registrations counted under `other` or not at all because a limit on series was reached.",
    );
    #[allow(clippy::cast_precision_loss)]
    page.sample(dropped, &Labels::new(), registry.dropped() as f64);
    let mut last = "";
    for sample in samples {
        if sample.name != last {
            page.header(sample.name, sample.kind, sample.help);
            last = sample.name;
        }
        page.sample(sample.name, &sample.labels, sample.value);
    }
    let inner = registry.lock();
    for (name, family) in &inner.families {
        let help = inner
            .help
            .get(name)
            .map_or("Not described.", String::as_str);
        page.header(name, family.kind, help);
        page.series(name, family);
    }
    drop(inner);
    if format == Format::OpenMetrics {
        page.out.push_str("# EOF\n");
    }
    LAST_SIZE.store(page.out.len(), Ordering::Relaxed);
    page.out
}

/// What is being written.
struct Page {
    out: String,
    format: Format,
}

impl Page {
    fn header(&mut self, name: &str, kind: Kind, help: &str) {
        let word = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // To OpenMetrics the suffix is of the sample, not of the family.
        let name = match (self.format, kind) {
            (Format::OpenMetrics, Kind::Counter) => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let out = &mut self.out;
        let _ = write!(out, "# HELP {name} ");
        escape(out, help, self.format == Format::OpenMetrics);
        let _ = write!(out, "\n# TYPE {name} {word}\n");
    }

    fn sample(&mut self, name: &str, labels: &Labels, value: f64) {
        self.out.push_str(name);
        self.label_set(labels, None);
        self.out.push(' ');
        number(&mut self.out, value);
        self.out.push('\n');
    }

    fn series(&mut self, name: &str, family: &Family) {
        let mut sorted: Vec<_> = family.series.iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(b.0));
        for (labels, series) in sorted {
            match series.read() {
                Some(Value::Counter(count)) => {
                    self.out.push_str(name);
                    self.label_set(labels, None);
                    let _ = writeln!(self.out, " {count}");
                }
                Some(Value::Gauge(value)) => self.sample(name, labels, value),
                Some(Value::Histogram(reading)) => {
                    let last = (f64::INFINITY, reading.count);
                    let buckets = reading.cumulative.iter().copied().chain([last]);
                    for (index, (bound, count)) in buckets.enumerate() {
                        let _ = write!(self.out, "{name}_bucket");
                        self.label_set(labels, Some(bound));
                        let _ = write!(self.out, " {count}");
                        self.exemplar(reading.exemplars.get(index).copied().flatten());
                        self.out.push('\n');
                    }
                    let _ = write!(self.out, "{name}_sum");
                    self.label_set(labels, None);
                    self.out.push(' ');
                    number(&mut self.out, reading.sum);
                    let _ = write!(self.out, "\n{name}_count");
                    self.label_set(labels, None);
                    let _ = writeln!(self.out, " {}", reading.count);
                }
                None => {}
            }
        }
    }

    fn exemplar(&mut self, exemplar: Option<Exemplar>) {
        let (Some(exemplar), Format::OpenMetrics) = (exemplar, self.format) else {
            return;
        };
        self.out.push_str(" # {trace_id=\"");
        for byte in exemplar.trace {
            let _ = write!(self.out, "{byte:02x}");
        }
        self.out.push_str("\"} ");
        number(&mut self.out, exemplar.value);
        let _ = write!(
            self.out,
            " {}.{:03}",
            exemplar.at.as_secs(),
            exemplar.at.subsec_millis()
        );
    }

    fn label_set(&mut self, labels: &Labels, le: Option<f64>) {
        if labels.is_empty() && le.is_none() {
            return;
        }
        let out = &mut self.out;
        let mut separator = '{';
        for (name, value) in labels {
            let _ = write!(out, "{separator}{name}=\"");
            escape(out, value, true);
            out.push('"');
            separator = ',';
        }
        if let Some(le) = le {
            let _ = write!(out, "{separator}le=\"");
            // OpenMetrics' bounds are floats in their canonical form: `1.0`.
            if self.format == Format::OpenMetrics && le.is_finite() {
                let _ = write!(out, "{le:?}");
            } else {
                number(out, le);
            }
            out.push('"');
        }
        out.push('}');
    }
}

fn escape(out: &mut String, text: &str, quotes: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' if quotes => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

fn number(out: &mut String, value: f64) {
    let _ = if value.is_nan() {
        write!(out, "NaN")
    } else if value.is_infinite() {
        write!(out, "{}Inf", if value > 0.0 { '+' } else { '-' })
    } else {
        write!(out, "{value}")
    };
}

#[cfg(test)]
mod tests {
    use crate::telemetry::Metrics;

    #[test]
    fn a_whole_exposition_is_what_prometheus_reads() {
        let metrics = Metrics::new(100);
        metrics::with_local_recorder(&metrics.recorder(), || {
            metrics::describe_counter!(
                "postern_denied_total",
                "Connections refused.\nBy \\reason."
            );
            metrics::counter!("postern_denied_total", "reason" => "a\"b\\c\nd").increment(3);
            metrics::gauge!("postern_up").set(1.5);
            metrics::histogram!("postern_batch_resources", "kind" => "Workload").record(3.0);
        });
        let text = metrics.render(super::Format::Prometheus, &[]);
        assert!(text.contains(
            "# HELP postern_denied_total Connections refused.\\nBy \\\\reason.\n\
             # TYPE postern_denied_total counter\n\
             postern_denied_total{reason=\"a\\\"b\\\\c\\nd\"} 3\n"
        ));
        assert!(text.contains("# TYPE postern_up gauge\npostern_up 1.5\n"));
        assert!(text.contains("postern_batch_resources_bucket{kind=\"Workload\",le=\"2\"} 0\n"));
        assert!(text.contains("postern_batch_resources_bucket{kind=\"Workload\",le=\"4\"} 1\n"));
        assert!(text.contains("postern_batch_resources_bucket{kind=\"Workload\",le=\"+Inf\"} 1\n"));
        assert!(text.contains("postern_batch_resources_sum{kind=\"Workload\"} 3\n"));
        assert!(text.contains("postern_batch_resources_count{kind=\"Workload\"} 1\n"));
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn every_line_is_a_comment_or_a_sample_of_the_family_announced_before_it() {
        let metrics = Metrics::new(100);
        metrics::with_local_recorder(&metrics.recorder(), || {
            metrics::counter!("postern_b_total").increment(1);
            metrics::gauge!("postern_a").set(f64::NAN);
            metrics::histogram!("postern_c_seconds").record(0.001);
        });
        let mut family = String::new();
        for line in metrics.render(super::Format::Prometheus, &[]).lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                family = rest.split(' ').next().expect("name").to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert_eq!(rest.split(' ').next(), Some(family.as_str()));
            } else {
                assert!(line.starts_with(&family), "{line} is not of {family}");
                let value = line.rsplit(' ').next().expect("value");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn openmetrics_is_written_for_those_who_ask_for_it() {
        use super::Format::{OpenMetrics, Prometheus};
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        for (accept, format) in [
            (None, Prometheus),
            (Some("*/*"), Prometheus),
            (Some("text/plain"), Prometheus),
            (Some(prometheus), OpenMetrics),
            (
                Some("application/openmetrics-text; version=1.0.0"),
                OpenMetrics,
            ),
            (Some("application/openmetrics-text;q=0"), Prometheus),
            (
                Some("application/openmetrics-text;q=0.1, text/plain"),
                Prometheus,
            ),
        ] {
            assert_eq!(super::Format::accepted(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn openmetrics_has_exemplars_and_an_end() {
        use super::super::exposition::{Format, Sample};
        use super::super::registry::Kind;
        let metrics = Metrics::new(100);
        let worker = metrics.worker_recorder();
        metrics::with_local_recorder(&worker, || {
            metrics::counter!("postern_b_total").increment(1);
        });
        let key = metrics::Key::from_name("postern_c_seconds");
        let histogram = worker.histogram(&key).expect("has a place");
        let trace = mesh_trace::TraceId::new([0xab; 16]).expect("not zero");
        histogram.add_traced(20_000, Some(trace));
        histogram.add_traced(1_000_000_000_000_000_000, None);
        let samples = [Sample::new("process_x", Kind::Gauge, "X.", 2.5)];
        let text = metrics.render(Format::OpenMetrics, &samples);
        assert!(
            text.contains("# TYPE postern_b counter\npostern_b_total 1\n"),
            "{text}"
        );
        let line = format!(
            "postern_c_seconds_bucket{{le=\"2.5e-5\"}} 1 # {{trace_id=\"{}\"}} 0.00002 ",
            "ab".repeat(16)
        );
        assert!(text.contains(&line), "{text}");
        assert!(text.contains("postern_c_seconds_bucket{le=\"+Inf\"} 2\n"));
        assert!(text.contains("# TYPE process_x gauge\nprocess_x 2.5\n"));
        assert!(text.ends_with("# EOF\n"));
        let plain = metrics.render(Format::Prometheus, &samples);
        assert!(!plain.contains("trace_id") && !plain.contains("EOF"));
        assert!(plain.contains("# TYPE postern_b_total counter\n"));
    }
}
