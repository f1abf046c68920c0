//! The accessibility tree of a page, as screen readers use it.

use std::collections::HashMap;

use anyhow::{Context, Result};
use serde_json::Value;

/// A node of the accessibility tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The role, such as `heading`, `button` or `region`.
    pub role: String,
    /// The accessible name.
    pub name: String,
}

/// Returns all nodes that are not ignored, in document order.
pub(super) fn nodes(tree: &Value) -> Result<Vec<Node>> {
    let list = tree["nodes"]
        .as_array()
        .context("the accessibility tree has no nodes")?;
    let by_id: HashMap<&str, &Value> = list
        .iter()
        .filter_map(|node| Some((node["nodeId"].as_str()?, node)))
        .collect();
    let mut found = Vec::new();
    let mut waiting: Vec<&Value> = list.first().into_iter().collect();
    while let Some(node) = waiting.pop() {
        if node["ignored"] != true {
            let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
            found.push(Node {
                role: text(&node["role"]),
                name: text(&node["name"]),
            });
        }
        let children = node["childIds"].as_array().into_iter().flatten().rev();
        waiting.extend(children.filter_map(|id| by_id.get(id.as_str()?)));
    }
    Ok(found)
}
