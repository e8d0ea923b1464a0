//! A radix tree over bytes: of all keys that begin a text, in one walk.

use std::collections::BTreeMap;
use std::ops::Range;

/// Keys with the lists that hang on them. Flat: a step of a walk touches a node, the first bytes of its children and an edge.
#[derive(Debug, Default)]
pub(super) struct Radix {
    nodes: Box<[Node]>,
    /// The first byte of each node's edge; those of the children of a node lie together, sorted.
    firsts: Box<[u8]>,
    /// What follows it on the edges.
    edges: Box<[u8]>,
    lists: Box<[u32]>,
}

#[derive(Debug, Default)]
struct Node {
    /// Where in `edges` the rest of the edge to this node is.
    edge: (u32, u32),
    /// The children.
    children: (u32, u32),
    /// Where in `lists` what hangs on the key that ends here is.
    list: (u32, u32),
}

impl Radix {
    pub(super) fn build(keys: BTreeMap<Box<[u8]>, Vec<u32>>) -> Self {
        let keys: Vec<_> = keys.into_iter().collect();
        if keys.is_empty() {
            return Self::default();
        }
        let (mut nodes, mut firsts) = (vec![Node::default()], vec![0]);
        let (mut edges, mut lists) = (Vec::new(), Vec::new());
        // Nodes to fill, at which the first so many bytes of some keys were read.
        let mut open = vec![(0, 0..keys.len(), 0)];
        while let Some((at, keys_below, depth)) = open.pop() {
            let mut rest = keys_below;
            let (key, units) = &keys[rest.start];
            if key.len() == depth {
                let start = position(lists.len());
                lists.extend_from_slice(units);
                nodes[at].list = (start, position(lists.len()));
                rest.start += 1;
            }
            let first_child = nodes.len();
            while !rest.is_empty() {
                let byte = keys[rest.start].0[depth];
                let group = &keys[rest.clone()];
                let count = group.partition_point(|(key, _)| key[depth] == byte);
                // Sorted: what the first and the last have in common, all have.
                let (low, high) = (&group[0].0, &group[count - 1].0);
                let common = common(&low[depth..], &high[depth..]);
                let start = position(edges.len());
                edges.extend_from_slice(&low[depth + 1..depth + common]);
                open.push((nodes.len(), rest.start..rest.start + count, depth + common));
                nodes.push(Node {
                    edge: (start, position(edges.len())),
                    ..Node::default()
                });
                firsts.push(byte);
                rest.start += count;
            }
            nodes[at].children = (position(first_child), position(nodes.len()));
        }
        Self {
            nodes: nodes.into(),
            firsts: firsts.into(),
            edges: edges.into(),
            lists: lists.into(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Calls `found` with the list of every key that begins the text.
    pub(super) fn walk(&self, text: impl Iterator<Item = u8>, mut found: impl FnMut(&[u32])) {
        let mut text = text;
        let Some(mut node) = self.nodes.first() else {
            return;
        };
        loop {
            let list = &self.lists[range(node.list)];
            if !list.is_empty() {
                found(list);
            }
            let Some(byte) = text.next() else { return };
            let children = range(node.children);
            let Ok(at) = self.firsts[children.clone()].binary_search(&byte) else {
                return;
            };
            node = &self.nodes[children.start + at];
            let mut edge = self.edges[range(node.edge)].iter();
            if !edge.all(|b| text.next() == Some(*b)) {
                return;
            }
        }
    }
}

/// How many bytes both begin with.
fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn range((start, end): (u32, u32)) -> Range<usize> {
    start as usize..end as usize
}

/// Positions are 32 bits: what has more does not fit into a message.
fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
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
            let mut map: BTreeMap<Box<[u8]>, Vec<u32>> = BTreeMap::new();
            for (i, key) in (0..).zip(&keys) {
                map.entry(key.as_bytes().into()).or_default().push(i);
            }
            let mut found = Vec::new();
            Radix::build(map).walk(text.bytes(), |list| found.extend_from_slice(list));
            found.sort_unstable();
            let expected: Vec<u32> = (0..).zip(&keys)
                .filter(|(_, key)| text.starts_with(&**key))
                .map(|(i, _)| i)
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
