//! OpenTelemetry's environment variables (specification "Environment Variable Specification" and "OTLP Exporter
//! Configuration"), read once at the start.
//!
//! Spans are exported when an endpoint is given or `OTEL_TRACES_EXPORTER=otlp` says so; a sidecar that nobody configured
//! sends nothing anywhere.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use tokio::sync::Notify;

use crate::context::Propagation;
use crate::sampler::{Root, Sampler};
use crate::tracer::{Queue, Tracer};

/// How spans travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP as protobuf over HTTP.
    Http,
}

/// Everything about tracing that is configured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The collector, with the path for HTTP.
    pub endpoint: Uri,
    /// How spans travel there.
    pub protocol: Protocol,
    /// Headers of every export. May hold credentials: never printed.
    pub headers: Headers,
    /// How long one export may take.
    pub timeout: Duration,
    /// Roots to verify an https collector with, PEM.
    pub certificate: Option<PathBuf>,
    /// Client certificate chain and key, PEM.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Sampling.
    pub sampler: Sampler,
    /// Formats of contexts.
    pub propagation: Propagation,
    /// Spans that wait per worker.
    pub queue: usize,
    /// Spans per export.
    pub batch: usize,
    /// Longest wait until an export.
    pub delay: Duration,
    /// Limits of a span's attributes.
    pub attributes: AttributeLimits,
    /// Resource attributes, `service.name` among them.
    pub resource: Vec<(String, String)>,
    /// Wakes the exporter.
    pub wake: Arc<Notify>,
}

/// How many attributes a span has, and how long their texts are, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttributeLimits {
    /// Attributes of a span; further ones are counted as dropped.
    pub count: usize,
    /// Characters of a text.
    pub length: usize,
}

impl AttributeLimits {
    /// The beginning of a text that is within them.
    pub(crate) fn cut(self, text: &str) -> &str {
        if text.len() <= self.length {
            return text;
        }
        let end = text.char_indices().nth(self.length);
        end.map_or(text, |(end, _)| &text[..end])
    }
}

impl Default for AttributeLimits {
    /// The specification's.
    fn default() -> Self {
        Self {
            count: 128,
            length: usize::MAX,
        }
    }
}

/// Headers whose values are not printed.
#[derive(Clone, Default)]
pub struct Headers(pub Vec<(HeaderName, HeaderValue)>);

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(n, _)| n))
            .finish()
    }
}

/// A variable that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct SettingsError {
    /// The variable.
    pub variable: String,
    /// What is wrong and what would do. The value is not repeated: headers hold credentials.
    pub problem: String,
}

impl Settings {
    /// Reads the variables through `get`; `None`: spans are not exported. `service` is the name where none is given.
    ///
    /// # Errors
    /// The first variable that cannot be used.
    pub fn read(
        get: impl Fn(&str) -> Option<String>,
        service: &str,
    ) -> Result<Option<Self>, SettingsError> {
        let env = Environment { get };
        if env.is_true("OTEL_SDK_DISABLED") {
            return Ok(None);
        }
        let (endpoint, is_given) = env.either("ENDPOINT");
        match env.text("OTEL_TRACES_EXPORTER").as_deref() {
            Some("none") => return Ok(None),
            Some("otlp") => {}
            None if is_given => {}
            None => return Ok(None),
            Some(_) => return Err(fail("OTEL_TRACES_EXPORTER", "is not known: otlp or none")),
        }
        let (protocol, variable) = env.value("PROTOCOL");
        let protocol = match protocol.as_deref() {
            None | Some("grpc") => Protocol::Grpc,
            Some("http/protobuf") => Protocol::Http,
            Some(_) => return Err(fail(&variable, "is not known: grpc or http/protobuf")),
        };
        if let (Some(compression), variable) = env.value("COMPRESSION")
            && compression != "none"
        {
            return Err(fail(&variable, "is not supported: none"));
        }
        let paths = (env.value("CLIENT_CERTIFICATE").0, env.value("CLIENT_KEY").0);
        let client = match paths {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            _ => {
                return Err(fail(
                    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
                    "goes with OTEL_EXPORTER_OTLP_CLIENT_KEY: give both or neither",
                ));
            }
        };
        Ok(Some(Self {
            endpoint: endpoint_of(
                &endpoint,
                protocol,
                env.value("INSECURE").0.is_some_and(|t| is_true(&t)),
            )?,
            protocol,
            headers: headers_of(&env.value("HEADERS"))?,
            timeout: env
                .millis(&env.value("TIMEOUT").1, 10_000)?
                .min(env.millis("OTEL_BSP_EXPORT_TIMEOUT", 30_000)?),
            certificate: env.value("CERTIFICATE").0.map(PathBuf::from),
            client,
            sampler: env.sampler()?,
            propagation: env.propagation()?,
            queue: env.number("OTEL_BSP_MAX_QUEUE_SIZE", 2048)?,
            batch: env.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)?,
            delay: env.millis("OTEL_BSP_SCHEDULE_DELAY", 5_000)?,
            attributes: env.attribute_limits()?,
            resource: env.resource(service)?,
            wake: Arc::default(),
        }))
    }

    /// A worker's tracer, and the exporter's end of its queue. `seed` makes its identifiers.
    pub fn tracer(&self, seed: u64) -> (Tracer, Queue) {
        let wake = Arc::clone(&self.wake);
        Tracer::new(self.sampler, self.propagation, self.queue, wake, seed)
    }
}

fn fail(variable: &str, problem: impl Into<String>) -> SettingsError {
    SettingsError {
        variable: variable.to_owned(),
        problem: problem.into(),
    }
}

/// Only `true`, in any case, is true.
fn is_true(text: &str) -> bool {
    text.trim().eq_ignore_ascii_case("true")
}

/// The endpoint and whether it came from the variable of the traces alone.
struct Endpoint {
    text: Option<String>,
    variable: &'static str,
    is_whole: bool,
}

fn endpoint_of(
    endpoint: &Endpoint,
    protocol: Protocol,
    insecure: bool,
) -> Result<Uri, SettingsError> {
    let default = match protocol {
        Protocol::Grpc => "http://localhost:4317",
        Protocol::Http => "http://localhost:4318",
    };
    let text = endpoint.text.as_deref().unwrap_or(default);
    // gRPC takes `host:port` too; `insecure` says which scheme that means.
    let text = if text.contains("://") {
        text.to_owned()
    } else if insecure {
        format!("http://{text}")
    } else {
        format!("https://{text}")
    };
    let bad = || {
        fail(
            endpoint.variable,
            "is not a URL such as http://collector:4317",
        )
    };
    let uri: Uri = text.parse().map_err(|_| bad())?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(bad());
    }
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(fail(
            endpoint.variable,
            "holds user information: give credentials in OTEL_EXPORTER_OTLP_HEADERS",
        ));
    }
    if protocol == Protocol::Grpc || endpoint.is_whole {
        return Ok(uri);
    }
    format!("{}/v1/traces", text.trim_end_matches('/'))
        .parse()
        .map_err(|_| bad())
}

fn headers_of((text, variable): &(Option<String>, String)) -> Result<Headers, SettingsError> {
    let mut headers = Vec::new();
    for pair in text.iter().flat_map(|t| t.split(',')).map(str::trim) {
        if pair.is_empty() {
            continue;
        }
        let parsed = pair.split_once('=').and_then(|(name, value)| {
            let name = HeaderName::try_from(name.trim().to_ascii_lowercase()).ok()?;
            let mut value = HeaderValue::try_from(decode(value.trim())?).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        let Some(header) = parsed else {
            return Err(fail(
                variable,
                "is not name=value,name=value with percent-encoded values",
            ));
        };
        headers.push(header);
    }
    Ok(Headers(headers))
}

/// Percent-decoding (W3C Baggage's values).
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok()
}

struct Environment<F> {
    get: F,
}

impl<F: Fn(&str) -> Option<String>> Environment<F> {
    /// An empty value counts as none.
    fn text(&self, name: &str) -> Option<String> {
        (self.get)(name).filter(|text| !text.trim().is_empty())
    }

    /// The variable of traces, else the one of all signals, and which of them it was.
    fn value(&self, suffix: &str) -> (Option<String>, String) {
        let own = format!("OTEL_EXPORTER_OTLP_TRACES_{suffix}");
        if let Some(text) = self.text(&own) {
            return (Some(text), own);
        }
        let general = format!("OTEL_EXPORTER_OTLP_{suffix}");
        (self.text(&general), general)
    }

    fn either(&self, suffix: &str) -> (Endpoint, bool) {
        let (text, variable) = self.value(suffix);
        let is_whole = variable.contains("_TRACES_");
        let given = text.is_some();
        let variable = if is_whole {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
        } else {
            "OTEL_EXPORTER_OTLP_ENDPOINT"
        };
        let endpoint = Endpoint {
            text,
            variable,
            is_whole,
        };
        (endpoint, given)
    }

    fn is_true(&self, name: &str) -> bool {
        self.text(name).is_some_and(|text| is_true(&text))
    }

    fn number(&self, name: &str, default: usize) -> Result<usize, SettingsError> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => match text.trim().parse() {
                Ok(number @ 1..=1_000_000) => Ok(number),
                _ => Err(fail(name, "is not a number from 1 to 1000000")),
            },
        }
    }

    fn millis(&self, name: &str, default: u64) -> Result<Duration, SettingsError> {
        let number = self.number(name, usize::try_from(default).unwrap_or(usize::MAX))?;
        Ok(Duration::from_millis(number as u64))
    }

    /// The limits of spans count before those of all signals.
    fn attribute_limits(&self) -> Result<AttributeLimits, SettingsError> {
        let default = AttributeLimits::default();
        let limit = |suffix: &str, default| {
            let all = self.number(&format!("OTEL_ATTRIBUTE_{suffix}"), default)?;
            self.number(&format!("OTEL_SPAN_ATTRIBUTE_{suffix}"), all)
        };
        Ok(AttributeLimits {
            count: limit("COUNT_LIMIT", default.count)?,
            length: limit("VALUE_LENGTH_LIMIT", default.length)?,
        })
    }

    fn sampler(&self) -> Result<Sampler, SettingsError> {
        let name = self.text("OTEL_TRACES_SAMPLER");
        let name = name.as_deref().unwrap_or("parentbased_always_on");
        let (parent_based, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name),
        };
        let root = match root {
            "always_on" => Root::Always,
            "always_off" => Root::Never,
            "traceidratio" => Root::ratio(self.ratio()?),
            _ => {
                return Err(fail(
                    "OTEL_TRACES_SAMPLER",
                    "is not known: [parentbased_]always_on, always_off or traceidratio",
                ));
            }
        };
        let slow = match self.text("POSTERN_TRACE_SLOW_MS") {
            None => Sampler::default().slow,
            Some(_) => self.millis("POSTERN_TRACE_SLOW_MS", 0)?,
        };
        Ok(Sampler {
            parent_based,
            root,
            slow,
        })
    }

    fn ratio(&self) -> Result<f64, SettingsError> {
        match self.text("OTEL_TRACES_SAMPLER_ARG") {
            None => Ok(1.0),
            Some(text) => match text.trim().parse::<f64>() {
                Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
                _ => Err(fail(
                    "OTEL_TRACES_SAMPLER_ARG",
                    "is not a share from 0.0 to 1.0",
                )),
            },
        }
    }

    fn propagation(&self) -> Result<Propagation, SettingsError> {
        let Some(text) = self.text("OTEL_PROPAGATORS") else {
            return Ok(Propagation::default());
        };
        let mut propagation = Propagation {
            w3c: false,
            b3_single: false,
            b3_multi: false,
        };
        for name in text.split(',').map(str::trim) {
            match name {
                "tracecontext" => propagation.w3c = true,
                "b3" => propagation.b3_single = true,
                "b3multi" => propagation.b3_multi = true,
                // Baggage passes through as it comes.
                "baggage" | "none" | "" => {}
                _ => {
                    return Err(fail(
                        "OTEL_PROPAGATORS",
                        "names one that is not known: tracecontext, baggage, b3, b3multi, none",
                    ));
                }
            }
        }
        Ok(propagation)
    }

    /// `OTEL_SERVICE_NAME` counts before `service.name` in `OTEL_RESOURCE_ATTRIBUTES`.
    fn resource(&self, service: &str) -> Result<Vec<(String, String)>, SettingsError> {
        const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let mut attributes = Vec::new();
        for pair in self
            .text(NAME)
            .iter()
            .flat_map(|t| t.split(','))
            .map(str::trim)
        {
            if pair.is_empty() {
                continue;
            }
            let parsed = pair
                .split_once('=')
                .and_then(|(key, value)| Some((key.trim().to_owned(), decode(value.trim())?)));
            match parsed {
                Some((key, value)) if !key.is_empty() => attributes.push((key, value)),
                _ => {
                    return Err(fail(
                        NAME,
                        "is not key=value,key=value with percent-encoded values",
                    ));
                }
            }
        }
        let given = self.text("OTEL_SERVICE_NAME");
        if let Some(name) = given {
            attributes.retain(|(key, _)| key != "service.name");
            attributes.push(("service.name".to_owned(), name));
        } else if !attributes.iter().any(|(key, _)| key == "service.name") {
            attributes.push(("service.name".to_owned(), service.to_owned()));
        }
        Ok(attributes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, SettingsError> {
        let map: HashMap<_, _> = variables.iter().copied().collect();
        Settings::read(|name| map.get(name).map(|v| (*v).to_owned()), "shop/web")
    }

    fn some(variables: &[(&str, &str)]) -> Settings {
        read(variables).unwrap().unwrap()
    }

    #[test]
    fn nothing_is_exported_unless_it_is_asked_for() {
        assert!(read(&[]).unwrap().is_none());
        assert!(
            read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")])
                .unwrap()
                .is_none()
        );
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
        assert!(read(&[endpoint]).unwrap().is_some());
        assert!(
            read(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")])
                .unwrap()
                .is_none()
        );
        assert!(
            read(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")])
                .unwrap()
                .is_none()
        );
        let by_name = some(&[("OTEL_TRACES_EXPORTER", "otlp")]);
        assert_eq!(by_name.endpoint, "http://localhost:4317");
    }

    #[test]
    fn http_has_a_path_unless_the_endpoint_is_that_of_traces() {
        let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        let general = some(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/base/"), http]);
        assert_eq!(general.endpoint, "http://c:4318/base/v1/traces");
        let own = some(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c/x"), http]);
        assert_eq!(own.endpoint, "https://c/x");
        let bare = some(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317"),
            ("OTEL_EXPORTER_OTLP_INSECURE", "false"),
            ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "true"),
        ]);
        assert_eq!(bare.endpoint, "http://c:4317");
    }

    #[test]
    fn values_are_read_or_refused_by_name_and_never_repeated() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
        let all = some(&[
            endpoint,
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "Authorization=Bearer%20s3cret, x-b = 1",
            ),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_PROPAGATORS", "tracecontext,b3"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=other,k8s.pod.name=web%2D1",
            ),
            ("OTEL_SERVICE_NAME", "web"),
            ("OTEL_BSP_SCHEDULE_DELAY", "200"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "7"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "300"),
            ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "100"),
            ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "50"),
            ("OTEL_ATTRIBUTE_COUNT_LIMIT", "10"),
        ]);
        let limits = (all.attributes.count, all.attributes.length);
        assert_eq!(limits, (10, 50), "those of spans count first");
        assert_eq!(all.headers.0[0].1, "Bearer s3cret");
        assert!(!format!("{all:?}").contains("s3cret"));
        assert_eq!(all.sampler.root, Root::ratio(0.25));
        assert!(all.propagation.b3_single && !all.propagation.b3_multi);
        assert!(
            all.resource
                .contains(&("service.name".into(), "web".into()))
        );
        assert!(
            all.resource
                .contains(&("k8s.pod.name".into(), "web-1".into()))
        );
        assert_eq!(all.delay, Duration::from_millis(200));
        assert_eq!(all.timeout, Duration::from_millis(300));
        for (variable, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://c"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:pass@c"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
            ("OTEL_PROPAGATORS", "xray"),
            ("OTEL_RESOURCE_ATTRIBUTES", "novalue"),
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many"),
        ] {
            let error = read(&[endpoint, (variable, value)]).unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with("OTEL_") && !text.contains("s3cret"),
                "{text}"
            );
        }
        let short = some(&[endpoint, ("OTEL_BSP_EXPORT_TIMEOUT", "50")]);
        assert_eq!(short.timeout, Duration::from_millis(50), "the shorter one");
        let ratio = read(&[
            endpoint,
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ]);
        assert_eq!(ratio.unwrap_err().variable, "OTEL_TRACES_SAMPLER_ARG");
    }
}
