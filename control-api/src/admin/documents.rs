//! The manifests of one apply as documents: all of them together, as if they were one.

use std::collections::BTreeMap;

use mesh_manifest::{Document, MAX_BYTES, MAX_DOCUMENTS};
use mesh_proto::admin::ApplyRequest;
use tonic::Status;

/// Reads every manifest of a request.
///
/// # Errors
/// INVALID_ARGUMENT with the first thing that is wrong and its place; a document that two manifests hold is wrong.
pub(super) fn read(request: &ApplyRequest) -> Result<Vec<Document>, Status> {
    let more = request.more.iter().map(|m| (&m.source, &m.manifest));
    let manifests = std::iter::once((&request.source, &request.manifest)).chain(more);
    let invalid = |problem: String| Status::invalid_argument(problem);
    let mut documents: Vec<Document> = Vec::new();
    let mut sources: BTreeMap<_, String> = BTreeMap::new();
    let mut bytes = 0;
    for (source, manifest) in manifests {
        let source = match source.as_str() {
            "" => "<input>",
            source => source,
        };
        bytes += manifest.len();
        if bytes > MAX_BYTES {
            return Err(invalid(format!(
                "{source}: the manifests have more than {MAX_BYTES} bytes together: apply fewer at once"
            )));
        }
        let read =
            mesh_manifest::parse(manifest, source).map_err(|error| invalid(error.to_string()))?;
        for document in &read {
            if let Some(before) = sources.insert(document.key(), source.to_owned()) {
                return Err(invalid(format!(
                    "{source}: {} {}/{} is already in {before}: keep one of them",
                    document.kind, document.namespace, document.name
                )));
            }
        }
        documents.extend(read);
        if documents.len() > MAX_DOCUMENTS {
            return Err(invalid(format!(
                "{source}: more than {MAX_DOCUMENTS} documents together: apply fewer at once"
            )));
        }
    }
    Ok(documents)
}
