//! Spans of requests and connections: where they belong, whether they are kept, and how they leave the process.
//!
//! Built without the `tracing` machinery because a request may cost a microsecond here, not three: a request carries a
//! [`Timeline`], a fixed array of phase durations; only a request that is sampled, denied or slow becomes a [`Span`], and
//! that goes into a bounded queue which the exporter empties on another thread. Nothing here ever waits for a collector.

pub mod context;
pub mod id;
pub mod sampler;
pub mod settings;
pub mod span;
pub mod timeline;
pub mod tracer;

mod encode;
pub mod export;
mod wire;

pub use context::{Incoming, Parent, Propagation};
pub use id::{IdSource, SpanId, TraceId};
pub use sampler::Sampler;
pub use settings::{Settings, SettingsError};
pub use span::{Http, Span, SpanKind, Subject, Verdict};
pub use timeline::{Phase, Timeline};
pub use tracer::{Started, Tracer};
