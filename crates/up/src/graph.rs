//! A way drawn: boxes for a terminal, or the text that Graphviz and Mermaid draw.

use crate::outline::{Node, outline};
use crate::way::{Way, WayFile};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text,
    Dot,
    Mermaid,
}

/// All ways of a file; machines as boxes, steps within, arrows as what waits for what.
pub fn draw(file: &WayFile, ways: &[Way], form: Form) -> String {
    match form {
        Form::Text => ways.iter().map(text).collect::<Vec<_>>().join("\n") + &fleet(file),
        Form::Dot => {
            let mut out = format!(
                "digraph {} {{\n  rankdir=TB;\n  node [shape=box, fontname=\"sans-serif\"];\n",
                quoted(&file.name)
            );
            for (n, way) in ways.iter().enumerate() {
                for (m, group) in groups(&outline(way)).into_iter().enumerate() {
                    out.push_str(&format!("  subgraph cluster_{n}_{m} {{\n    label={};\n", quoted(&title(&group))));
                    for node in &group {
                        let style = if node.changes { "" } else { ", style=rounded" };
                        out.push_str(&format!(
                            "    {} [label={}{style}];\n",
                            name(n, node),
                            quoted(&format!("{}\n{}", node.id, node.says))
                        ));
                    }
                    out.push_str("  }\n");
                }
                for node in outline(way) {
                    for before in &node.needs {
                        out.push_str(&format!("  \"{n}:{before}\" -> {};\n", name(n, &node)));
                    }
                }
            }
            out + "}\n"
        }
        Form::Mermaid => {
            let mut out = String::from("flowchart TB\n");
            let id = |n: usize, id: &str| format!("w{n}_{}", id.replace('/', "_"));
            for (n, way) in ways.iter().enumerate() {
                for (m, group) in groups(&outline(way)).into_iter().enumerate() {
                    out.push_str(&format!("  subgraph g{n}_{m} [\"{}\"]\n", title(&group).replace('"', "'")));
                    for node in &group {
                        out.push_str(&format!(
                            "    {}[\"{}: {}\"]\n",
                            id(n, &node.id),
                            node.id,
                            node.says.replace('"', "'")
                        ));
                    }
                    out.push_str("  end\n");
                }
                for node in outline(way) {
                    for before in &node.needs {
                        out.push_str(&format!("  {} --> {}\n", id(n, before), id(n, &node.id)));
                    }
                }
            }
            out
        }
    }
}

fn name(n: usize, node: &Node) -> String {
    format!("\"{n}:{}\"", node.id)
}

/// As DOT quotes: only the quote and the backslash are special.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// Steps that follow each other on one machine.
fn groups(nodes: &[Node]) -> Vec<Vec<Node>> {
    let mut groups: Vec<Vec<Node>> = Vec::new();
    for node in nodes {
        match groups.last_mut() {
            Some(group) if group[0].machine == node.machine => group.push(node.clone()),
            _ => groups.push(vec![node.clone()]),
        }
    }
    groups
}

fn title(group: &[Node]) -> String {
    match group[0].machine {
        "here" => "here".into(),
        machine if group[0].at == "here" => format!("{machine}: here"),
        machine => format!("{machine}: {}", group[0].at),
    }
}

const WIDTH: usize = 78;

fn text(way: &Way) -> String {
    let mut out = format!("{}\n", way.name);
    let groups = groups(&outline(way));
    let last = groups.len() - 1;
    for (n, group) in groups.iter().enumerate() {
        let title = format!("─ {} ", title(group));
        let rule = "─".repeat(WIDTH.saturating_sub(title.chars().count() + 2));
        out.push_str(&format!("┌{title}{rule}┐\n"));
        for node in group {
            let mark = if node.changes { "◆" } else { "◇" };
            let line: String = format!(" {mark} {:<17}{}", node.id, node.says).chars().take(WIDTH - 3).collect();
            out.push_str(&format!("│{line}{}│\n", " ".repeat(WIDTH - 2 - line.chars().count())));
        }
        let rule = "─".repeat(WIDTH - 2);
        out.push_str(&format!("└{rule}┘\n"));
        if n < last {
            out.push_str(&format!("{}│\n{}▼\n", " ".repeat(8), " ".repeat(8)));
        }
    }
    out
}

fn fleet(file: &WayFile) -> String {
    let Some(fleet) = &file.fleet else {
        return "\n◆ may change something   ◇ looks and proves\n".into();
    };
    format!(
        "\n◆ may change something   ◇ looks and proves\n{} hosts: {} first, then {} at once, {} of one cluster; none is begun after {} failed\n",
        fleet.hosts.len(),
        fleet.canary,
        fleet.at_once,
        fleet.same_cluster,
        fleet.stop_after
    )
}
