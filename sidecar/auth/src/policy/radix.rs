//! A radix tree over bytes: of all keys that begin a text, or are it, in one walk.

use std::collections::BTreeMap;

/// Keys with the lists that hang on them.
#[derive(Debug)]
pub(super) struct Radix {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// Bytes on the edge to this node.
    edge: Box<[u8]>,
    /// First bytes of the children's edges, sorted.
    firsts: Box<[u8]>,
    /// The children, in the same order.
    children: Box<[u32]>,
    /// What hangs on the key that ends here, for texts that begin with it.
    prefix: Box<[u32]>,
    /// What hangs on it for texts that are it.
    exact: Box<[u32]>,
}

/// What hangs on one key: for texts that begin with it, and for texts that are it.
#[derive(Debug, Default)]
pub(super) struct Hangs {
    pub(super) prefix: Vec<u32>,
    pub(super) exact: Vec<u32>,
}

impl Radix {
    pub(super) fn build(keys: BTreeMap<Box<[u8]>, Hangs>) -> Self {
        let mut keys: Vec<_> = keys.into_iter().collect();
        let mut radix = Self {
            nodes: vec![Node::default()],
        };
        radix.fill(0, &mut keys, 0);
        radix
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.len() == 1
            && self
                .nodes
                .iter()
                .all(|n| n.prefix.is_empty() && n.exact.is_empty())
    }

    /// Fills the node at which the first `depth` bytes of all of `keys`, which are sorted, were read.
    fn fill(&mut self, at: usize, keys: &mut [(Box<[u8]>, Hangs)], depth: usize) {
        let mut rest = keys;
        if let [(key, hangs), ..] = rest
            && key.len() == depth
        {
            self.nodes[at].prefix = std::mem::take(&mut hangs.prefix).into();
            self.nodes[at].exact = std::mem::take(&mut hangs.exact).into();
            rest = &mut rest[1..];
        }
        let (mut firsts, mut children) = (Vec::new(), Vec::new());
        while let [(first, _), ..] = rest {
            let byte = first[depth];
            let count = rest
                .iter()
                .take_while(|(key, _)| key[depth] == byte)
                .count();
            let (group, others) = rest.split_at_mut(count);
            rest = others;
            // Sorted: what the first and the last have in common, all have.
            let (low, high) = (&group[0].0, &group[count - 1].0);
            let common = low[depth..]
                .iter()
                .zip(&high[depth..])
                .take_while(|(a, b)| a == b)
                .count();
            let child = self.nodes.len();
            self.nodes.push(Node {
                edge: low[depth..depth + common].into(),
                ..Node::default()
            });
            firsts.push(byte);
            children.push(u32::try_from(child).unwrap_or(u32::MAX));
            self.fill(child, group, depth + common);
        }
        self.nodes[at].firsts = firsts.into();
        self.nodes[at].children = children.into();
    }

    /// Calls `found` with the list of every key that begins the text, and with that of the key that is it.
    pub(super) fn walk(&self, text: impl Iterator<Item = u8>, mut found: impl FnMut(&[u32])) {
        let mut text = text;
        let mut node = &self.nodes[0];
        loop {
            if !node.prefix.is_empty() {
                found(&node.prefix);
            }
            let Some(byte) = text.next() else {
                if !node.exact.is_empty() {
                    found(&node.exact);
                }
                return;
            };
            let Ok(at) = node.firsts.binary_search(&byte) else {
                return;
            };
            node = &self.nodes[node.children[at] as usize];
            if !node.edge[1..].iter().all(|b| text.next() == Some(*b)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_walk_finds_the_keys_that_begin_the_text(
            keys in proptest::collection::vec("[ab/]{0,5}", 0..12),
            text in "[ab/]{0,8}",
        ) {
            let mut map: BTreeMap<Box<[u8]>, Hangs> = BTreeMap::new();
            for (i, key) in (0..).zip(&keys) {
                let hangs = map.entry(key.as_bytes().into()).or_default();
                if i % 2 == 0 { hangs.prefix.push(i) } else { hangs.exact.push(i) }
            }
            let mut found = Vec::new();
            Radix::build(map).walk(text.bytes(), |list| found.extend_from_slice(list));
            found.sort_unstable();
            let expected: Vec<u32> = (0..).zip(&keys)
                .filter(|(i, key)| if i % 2 == 0 { text.starts_with(&**key) } else { text == **key })
                .map(|(i, _)| i)
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
