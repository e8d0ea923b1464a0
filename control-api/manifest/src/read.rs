//! From text to documents, within limits.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::document::{Document, Envelope};
use crate::error::{FieldError, ManifestError};
use crate::kind::Kind;
use crate::spec::metadata::DEFAULT_NAMESPACE;
use crate::split::{self, Chunk};
use crate::{locate, spec};

/// Largest manifest, bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// Most documents in a manifest.
pub const MAX_DOCUMENTS: usize = 10_000;
/// Longest name of a document in a message.
const MAX_SUBJECT: usize = 400;
const MAX_DEPTH: usize = 24;
const MAX_NODES: usize = 250_000;
/// A manifest repeats little; an alias bomb does nothing else.
const MAX_ALIASES: usize = 1_000;
const MAX_REPLAYED: usize = 100_000;

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_recorded_anchor_events: MAX_REPLAYED,
            max_recorded_anchor_bytes: MAX_BYTES,
            max_merge_keys: MAX_ALIASES,
            max_total_scalar_bytes: 2 * MAX_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED,
            max_replay_stack_depth: 8,
        },
        strict_booleans: true,
        with_snippet: false,
    }
}

/// What every document says first.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: Option<String>,
    kind: Option<String>,
}

/// What is wrong in one document.
struct Problem {
    path: String,
    /// Line and column within the document, when the reader knows them.
    at: Option<(usize, usize)>,
    problem: String,
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        Self {
            path: error.path,
            at: None,
            problem: error.problem,
        }
    }
}

/// Reads a manifest: YAML, or JSON which is YAML, any number of documents.
///
/// # Errors
/// The first thing that is wrong, with its place. `source` is the name of the file for the message.
pub fn parse(text: &str, source: &str) -> Result<Vec<Document>, ManifestError> {
    let whole = |problem: String| Err(ManifestError::whole(source, problem));
    if text.len() > MAX_BYTES {
        return whole(format!(
            "has {} bytes, more than {MAX_BYTES}: split the manifest",
            text.len()
        ));
    }
    let mut documents: Vec<Document> = Vec::new();
    let mut positions = BTreeMap::new();
    if split::documents(text).nth(MAX_DOCUMENTS).is_some() {
        return whole(format!(
            "has more than {MAX_DOCUMENTS} documents: split the manifest"
        ));
    }
    for (index, chunk) in split::documents(text).enumerate() {
        let position = index + 1;
        let document = document(chunk.text)
            .and_then(|document| match positions.insert(document.key(), position) {
                Some(before) => Err(Problem::from(FieldError::new(
                    "metadata.name",
                    format!(
                        "{} {}/{} is already document {before} of this manifest: keep one of them",
                        document.kind, document.metadata.namespace, document.metadata.name
                    ),
                ))),
                None => Ok(document),
            })
            .map_err(|problem| problem.in_stream(text, chunk, source, position))?;
        documents.push(document);
    }
    if documents.is_empty() {
        return whole("holds no document: nothing to do".into());
    }
    Ok(documents)
}

/// Reads one document from the JSON that [`Document::to_json`] writes.
///
/// # Errors
/// What is wrong, with its field.
pub fn from_json(text: &str) -> Result<Document, FieldError> {
    let whole = |e: &dyn std::fmt::Display| FieldError::new("document", e.to_string());
    let head: Head = serde_json::from_str(text).map_err(|e| whole(&e))?;
    fn read<T: DeserializeOwned>(text: &str) -> Result<T, FieldError> {
        let mut json = serde_json::Deserializer::from_str(text);
        serde_path_to_error::deserialize(&mut json)
            .map_err(|e| FieldError::new(e.path().to_string(), e.into_inner().to_string()))
    }
    match kind_of(&head)? {
        Kind::MeshDefaults => finish(read::<Envelope<spec::MeshDefaults>>(text)?),
        Kind::Revocation => finish(read::<Envelope<spec::Revocation>>(text)?),
        Kind::Federation => finish(read::<Envelope<spec::FederationSpec>>(text)?),
        Kind::PeerAuthentication => finish(read::<Envelope<spec::PeerAuthentication>>(text)?),
        Kind::RequestAuthentication => finish(read::<Envelope<spec::RequestAuthentication>>(text)?),
        Kind::AuthorizationPolicy => finish(read::<Envelope<spec::AuthorizationPolicy>>(text)?),
        Kind::LatencyBudget => finish(read::<Envelope<spec::LatencyBudget>>(text)?),
        Kind::Service => finish(read::<Envelope<spec::Service>>(text)?),
        Kind::Workload => finish(read::<Envelope<spec::Workload>>(text)?),
    }
}

fn document(text: &str) -> Result<Document, Problem> {
    let head: Head = read(text)?;
    Ok(match kind_of(&head)? {
        Kind::MeshDefaults => finish(read::<Envelope<spec::MeshDefaults>>(text)?),
        Kind::Revocation => finish(read::<Envelope<spec::Revocation>>(text)?),
        Kind::Federation => finish(read::<Envelope<spec::FederationSpec>>(text)?),
        Kind::PeerAuthentication => finish(read::<Envelope<spec::PeerAuthentication>>(text)?),
        Kind::RequestAuthentication => finish(read::<Envelope<spec::RequestAuthentication>>(text)?),
        Kind::AuthorizationPolicy => finish(read::<Envelope<spec::AuthorizationPolicy>>(text)?),
        Kind::LatencyBudget => finish(read::<Envelope<spec::LatencyBudget>>(text)?),
        Kind::Service => finish(read::<Envelope<spec::Service>>(text)?),
        Kind::Workload => finish(read::<Envelope<spec::Workload>>(text)?),
    }?)
}

fn finish<S: spec::Spec>(envelope: Envelope<S>) -> Result<Document, FieldError> {
    envelope.finish()
}

fn kind_of(head: &Head) -> Result<Kind, FieldError> {
    let Some(kind) = &head.kind else {
        return Err(FieldError::new(
            "kind",
            format!("missing: say which of {} this is", Kind::names()),
        ));
    };
    let Some(kind) = Kind::from_document(kind) else {
        return Err(FieldError::new(
            "kind",
            format!(
                "'{}' is unknown; known are {}",
                kind.escape_default(),
                Kind::names()
            ),
        ));
    };
    let versions = kind.api_versions().join(", ");
    match &head.api_version {
        None => Err(FieldError::new(
            "apiVersion",
            format!("missing: write one of {versions}"),
        )),
        Some(version) if !kind.api_versions().contains(&version.as_str()) => Err(FieldError::new(
            "apiVersion",
            format!(
                "'{}' is not known for {kind}: write one of {versions}",
                version.escape_default()
            ),
        )),
        Some(_) => Ok(kind),
    }
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    let path = RefCell::new(String::new());
    serde_saphyr::with_deserializer_from_str_with_options(text, options(), |deserializer| {
        let mut track = serde_path_to_error::Track::new();
        let result = T::deserialize(serde_path_to_error::Deserializer::new(
            deserializer,
            &mut track,
        ));
        if result.is_err() {
            *path.borrow_mut() = track.path().to_string();
        }
        result
    })
    .map_err(|error| {
        let mut path = path.take();
        // A key that was never finished.
        while path.ends_with(".?") {
            path.truncate(path.len() - 2);
        }
        Problem {
            // Where the reader stopped before it reached a field there is no path: `.` or `?`.
            path: if path.contains(|c: char| c.is_ascii_alphanumeric()) {
                path
            } else {
                String::new()
            },
            at: error.location().and_then(|l| {
                Some((
                    usize::try_from(l.line()).ok()?,
                    usize::try_from(l.column()).ok()?,
                ))
            }),
            problem: message(&error),
        }
    })
}

/// As much of the head as a message can name the document by.
#[derive(Deserialize)]
struct Title {
    kind: Option<String>,
    metadata: Option<TitleMetadata>,
}

#[derive(Deserialize)]
struct TitleMetadata {
    name: Option<String>,
    namespace: Option<String>,
}

/// `Kind namespace/name`, or as much of it as the text says. Only done for a manifest that is refused.
fn subject(text: &str) -> String {
    let mut lenient = options();
    lenient.duplicate_keys = serde_saphyr::options::DuplicateKeyPolicy::FirstWins;
    let Ok(title) = serde_saphyr::from_str_with_options::<Title>(text, lenient) else {
        return String::new();
    };
    let kind = title.kind.unwrap_or_default();
    let name = title.metadata.and_then(|m| {
        let namespace = m.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        m.name.map(|name| format!("{namespace}/{name}"))
    });
    let subject: Vec<_> = [Some(kind), name]
        .into_iter()
        .flatten()
        .filter(|part| !part.is_empty())
        .collect();
    subject
        .join(" ")
        .escape_default()
        .take(MAX_SUBJECT)
        .collect()
}

/// The error without its place, which we show ourselves.
fn message(error: &serde_saphyr::Error) -> String {
    let rendered = error.without_snippet().to_string();
    let mut line = rendered.lines().next().unwrap_or_default();
    for prefix in ["error: ", "line "] {
        line = match (prefix, line.strip_prefix(prefix)) {
            ("line ", Some(rest)) => rest.split_once(": ").map_or(line, |(_, rest)| rest),
            (_, Some(rest)) => rest,
            (_, None) => line,
        };
    }
    let line = line.split(" at line ").next().unwrap_or(line);
    if ["budget breached", "alias replay limit", "recursion limit"]
        .iter()
        .any(|limit| line.contains(limit))
    {
        return format!(
            "too much: a document may nest {MAX_DEPTH} levels deep and hold {MAX_NODES} values, and its at most \
             {MAX_ALIASES} aliases may repeat {MAX_REPLAYED} of them"
        );
    }
    // Advice to programmers, of no use to who wrote the manifest.
    line.split_once(", set DuplicateKeyPolicy")
        .map_or_else(|| line.to_owned(), |(what, _)| format!("{what}: keep one"))
}

impl Problem {
    fn in_stream(
        self,
        stream: &str,
        chunk: Chunk<'_>,
        source: &str,
        document: usize,
    ) -> ManifestError {
        let (line, column) = self
            .at
            .filter(|(line, _)| *line > 0)
            .or_else(|| locate::place(chunk.text, options(), &self.path))
            .unwrap_or((1, 1));
        let line = line + chunk.lines_before;
        ManifestError {
            source: source.into(),
            document,
            subject: subject(chunk.text).into(),
            line,
            column,
            path: self.path,
            problem: self.problem,
            quote: stream.lines().nth(line - 1).unwrap_or_default().into(),
        }
    }
}
