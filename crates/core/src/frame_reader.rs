//! Reads frames: checks their JSON and finds the values at given paths.

mod layout;

use self::layout::Layout;
use crate::{
    json::{self, JsonError, Scanner, Span},
    path::Path,
};

/// The maximum number of cached layouts. A feed has one layout for each set of keys that it sends. If a feed has more
/// layouts, the least recently used ones are evicted, and their frames are read without the cache.
const LAYOUTS: usize = 4;
/// After [`LAYOUTS`] consecutive frames without a cached layout, only one of this number of frames is learned: if all
/// frames have different layouts, learning from each of them would cost more than the cache saves.
const LEARN_EVERY: u32 = 16;

/// Scans each frame once: validates the JSON, and finds the positions of the values at the paths of [`new`](Self::new).
///
/// Of duplicate keys the last one counts, as in every common parser. A step of a path is a key of an object, or an index
/// of an array. Frames whose layout was [learned](Self::learn) are read faster, with the same result.
#[derive(Clone, Debug)]
pub struct FrameReader {
    /// The tree of all paths; the first node is the frame.
    nodes: Vec<Node>,
    /// The position of the value at each path.
    spans: Vec<Span>,
    /// The cached layouts, the most recently used one first.
    layouts: Vec<Layout>,
    /// The number of consecutive frames that were passed to [`learn`](Self::learn) and matched no cached layout.
    misses: u32,
    /// Whether the last frame was read without a cached layout.
    is_new: bool,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// The indexes of the paths that end at this node.
    slots: Vec<usize>,
    /// The next step of a path, and its node.
    children: Vec<(Box<str>, usize)>,
}

impl FrameReader {
    /// Creates a reader that finds the values at these paths. The value of a path that is `None` is always missing.
    pub fn new<'a>(paths: impl IntoIterator<Item = Option<&'a Path>>) -> Self {
        let mut nodes = vec![Node::default()];
        let mut slots = 0;
        for (slot, path) in paths.into_iter().enumerate() {
            slots = slot + 1;
            let Some(path) = path else { continue };
            let mut node = 0;
            for step in path.steps() {
                let child = nodes[node].children.iter().find(|(name, _)| name == step);
                node = if let Some((_, child)) = child {
                    *child
                } else {
                    nodes.push(Node::default());
                    let child = nodes.len() - 1;
                    nodes[node].children.push((step.clone(), child));
                    child
                };
            }
            nodes[node].slots.push(slot);
        }
        Self {
            nodes,
            spans: vec![Span::ABSENT; slots],
            layouts: Vec::new(),
            misses: 0,
            is_new: false,
        }
    }

    /// Reads a frame, and returns the positions of the values in the order of the paths.
    ///
    /// # Errors
    /// The frame is not JSON.
    pub fn read(&mut self, frame: &str) -> Result<&[Span], JsonError> {
        for index in 0..self.layouts.len() {
            if self.layouts[index].read(frame, &mut self.spans) {
                self.layouts[..=index].rotate_right(1);
                (self.misses, self.is_new) = (0, false);
                return Ok(&self.spans);
            }
        }
        self.is_new = true;
        self.scan(frame)?;
        Ok(&self.spans)
    }

    /// Caches the layout of the frame that was read last, unless it is cached already. Call it for frames whose keys are
    /// expected in many later frames.
    #[inline]
    pub fn learn(&mut self, frame: &str) {
        if self.is_new {
            self.learn_new(frame);
        }
    }

    fn learn_new(&mut self, frame: &str) {
        let is_due = self.misses < LAYOUTS as u32 || self.misses.is_multiple_of(LEARN_EVERY);
        self.misses = self.misses.wrapping_add(1);
        if is_due && let Some(layout) = Layout::of(frame, &self.spans) {
            self.layouts.truncate(LAYOUTS - 1);
            self.layouts.insert(0, layout);
        }
    }

    /// Reads a frame without a layout.
    fn scan(&mut self, frame: &str) -> Result<(), JsonError> {
        self.spans.fill(Span::ABSENT);
        let mut scanner = Scanner::new(frame)?;
        scan_value(&self.nodes, 0, &mut scanner, &mut self.spans)?;
        scanner.end()
    }
}

/// Reads the value of a node and the values below it.
fn scan_value(
    nodes: &[Node],
    node: usize,
    scanner: &mut Scanner<'_>,
    spans: &mut [Span],
) -> Result<(), JsonError> {
    let Node { slots, children } = &nodes[node];
    let span = if children.is_empty() {
        scanner.value()?
    } else if scanner.at_object() {
        scanner.object(|scanner, key| {
            let name = key.name();
            match children.iter().find(|(child, _)| **child == *name) {
                Some((_, child)) => {
                    // A second value of a key replaces the first one and all values found in it.
                    clear(nodes, *child, spans);
                    scan_value(nodes, *child, scanner, spans)
                }
                None => scanner.value().map(drop),
            }
        })?
    } else if scanner.at_array() {
        let mut index = 0_usize;
        scanner.array(|scanner| {
            let child = children
                .iter()
                .find(|(child, _)| json::index(child) == Some(index));
            index += 1;
            match child {
                Some((_, child)) => scan_value(nodes, *child, scanner, spans),
                None => scanner.value().map(drop),
            }
        })?
    } else {
        scanner.value()?
    };
    for slot in slots {
        spans[*slot] = span;
    }
    Ok(())
}

/// Marks the value of a node and all values below it as missing.
fn clear(nodes: &[Node], node: usize, spans: &mut [Span]) {
    for slot in &nodes[node].slots {
        spans[*slot] = Span::ABSENT;
    }
    for (_, child) in &nodes[node].children {
        clear(nodes, *child, spans);
    }
}

#[cfg(test)]
mod tests;
