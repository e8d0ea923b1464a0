//! Prometheus text format 0.0.4.
//!
//! Every metric has HELP and TYPE lines, names and label sets come in a fixed order, and every histogram adds up.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::registry::{Family, Kind, Labels, Registry, Value};

/// `content-type` of what [`render`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Remembers how much the last scrape took, so that the next one allocates once.
static LAST_SIZE: AtomicUsize = AtomicUsize::new(4096);

/// Writes all metrics of a registry.
pub fn render(registry: &Registry) -> String {
    let mut out = String::with_capacity(LAST_SIZE.load(Ordering::Relaxed) + 1024);
    header(
        &mut out,
        "postern_telemetry_series_dropped_total",
        Kind::Counter,
        "Registrations counted under `other` or not at all because a limit on series was reached.",
    );
    let _ = writeln!(
        out,
        "postern_telemetry_series_dropped_total {}",
        registry.dropped()
    );
    let inner = registry.lock();
    for (name, family) in &inner.families {
        let help = inner
            .help
            .get(name)
            .map_or("Not described.", String::as_str);
        header(&mut out, name, family.kind, help);
        series(&mut out, name, family);
    }
    drop(inner);
    LAST_SIZE.store(out.len(), Ordering::Relaxed);
    out
}

fn header(out: &mut String, name: &str, kind: Kind, help: &str) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let _ = write!(out, "# HELP {name} ");
    for c in help.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    let _ = write!(out, "\n# TYPE {name} {kind}\n");
}

fn series(out: &mut String, name: &str, family: &Family) {
    let mut sorted: Vec<_> = family.series.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(b.0));
    for (labels, series) in sorted {
        let Some(value) = series.read() else {
            continue;
        };
        match value {
            Value::Counter(count) => {
                out.push_str(name);
                label_set(out, labels, None);
                let _ = writeln!(out, " {count}");
            }
            Value::Gauge(value) => {
                out.push_str(name);
                label_set(out, labels, None);
                out.push(' ');
                number(out, value);
                out.push('\n');
            }
            Value::Histogram(reading) => {
                for (bound, count) in &reading.cumulative {
                    let _ = write!(out, "{name}_bucket");
                    label_set(out, labels, Some(*bound));
                    let _ = writeln!(out, " {count}");
                }
                let _ = write!(out, "{name}_bucket");
                label_set(out, labels, Some(f64::INFINITY));
                let _ = writeln!(out, " {}", reading.count);
                let _ = write!(out, "{name}_sum");
                label_set(out, labels, None);
                out.push(' ');
                number(out, reading.sum);
                let _ = write!(out, "\n{name}_count");
                label_set(out, labels, None);
                let _ = writeln!(out, " {}", reading.count);
            }
        }
    }
}

fn label_set(out: &mut String, labels: &Labels, le: Option<f64>) {
    if labels.is_empty() && le.is_none() {
        return;
    }
    let mut separator = '{';
    for (name, value) in labels {
        let _ = write!(out, "{separator}{name}=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
        separator = ',';
    }
    if let Some(le) = le {
        let _ = write!(out, "{separator}le=\"");
        number(out, le);
        out.push('"');
    }
    out.push('}');
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
        let text = metrics.render();
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
        for line in metrics.render().lines() {
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
}
