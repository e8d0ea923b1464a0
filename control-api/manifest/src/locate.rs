//! From the path of a field to its line and column. Only done for a manifest that is refused.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A document as a tree of places.
enum Node {
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
    Sequence(Vec<Spanned<Node>>),
    Scalar,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

macro_rules! scalars {
    ($($method:ident: $type:ty),*) => {
        $(fn $method<E>(self, _: $type) -> Result<Node, E> { Ok(Node::Scalar) })*
    };
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    scalars!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64, visit_str: &str);

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element()? {
            nodes.push(node);
        }
        Ok(Node::Sequence(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(entry) = map.next_entry()? {
            nodes.push(entry);
        }
        if map.next_key::<IgnoredAny>()?.is_some() {
            nodes.clear();
        }
        Ok(Node::Map(nodes))
    }
}

/// Line and column, from 1, of the field at `path`, or of the nearest part of the path that is there.
pub(crate) fn place(
    text: &str,
    options: serde_saphyr::Options,
    path: &str,
) -> Option<(usize, usize)> {
    let root: Spanned<Node> = serde_saphyr::from_str_with_options(text, options).ok()?;
    let mut at = root.referenced;
    let mut node = &root.value;
    for step in steps(path) {
        let next = match (node, step) {
            (Node::Sequence(nodes), Step::Index(i)) => nodes.get(i).map(|n| (n.referenced, n)),
            // Keys may hold dots: the longest key that the rest of the path begins with.
            (Node::Map(entries), Step::Key(key)) => entries
                .iter()
                .find(|(k, _)| k.value == key)
                .map(|(k, n)| (k.referenced, n)),
            _ => None,
        };
        let Some((location, inner)) = next else { break };
        at = location;
        node = &inner.value;
    }
    Some((
        usize::try_from(at.line()).ok()?,
        usize::try_from(at.column()).ok()?,
    ))
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    path.split('.').flat_map(|part| {
        let (key, indices) = part.find('[').map_or((part, ""), |at| part.split_at(at));
        let indices = indices
            .split(['[', ']'])
            .filter_map(|i| i.parse().ok())
            .map(Step::Index);
        std::iter::once(Step::Key(key)).chain(indices)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_lines_and_columns() {
        let text = "kind: X\nspec:\n  ports:\n  - port: 1\n  - {port: 2, name: b}\n";
        for (path, expected) in [
            ("kind", (1, 1)),
            ("spec.ports[0].port", (4, 5)),
            ("spec.ports[1].name", (5, 15)),
            ("spec.ports[1].absent", (5, 5)),
            ("spec.absent.deeper", (2, 1)),
            ("", (1, 1)),
        ] {
            let found = place(text, serde_saphyr::Options::default(), path);
            assert_eq!(found, Some(expected), "{path}");
        }
    }
}
