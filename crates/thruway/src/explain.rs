//! `thruway explain ID`: a check's page, and docs/checks.md.

use anyhow::bail;
use model::{About, Layer};

use crate::cli::Global;
use crate::paint::{Page, Tone, paint};
use crate::way::all_checks;
use crate::{DONE, explain_log, say};

pub fn explain(global: &Global, id: Option<&str>, markdown: bool) -> anyhow::Result<u8> {
    let checks = all_checks();
    if markdown {
        return say(&pages(&checks)).map(|()| DONE);
    }
    let Some(id) = id else {
        return match explain_log::piped()? {
            Some(log) => explain_log::explain(global, "standard input", &log),
            None => list(global, &checks),
        };
    };
    let Some(about) = checks.iter().find(|about| about.id.0 == id) else {
        let name = id.rsplit('/').next().unwrap_or(id);
        let near: Vec<&str> =
            checks.iter().map(|a| a.id.0).filter(|other| !name.is_empty() && other.contains(name)).collect();
        let hint = if near.is_empty() {
            "`thruway explain` lists them".into()
        } else {
            format!("did you mean {}?", near.join(", "))
        };
        bail!("there is no check {id}; {hint}");
    };
    if global.json {
        return say(&(serde_json::to_string_pretty(about)? + "\n")).map(|()| DONE);
    }
    let mut page = Page::new();
    page.line(paint(Tone::Strong, about.id.0));
    page.hang(2, "", 0, Tone::Plain, about.title);
    page.gap();
    page.hang(2, "", 0, Tone::Plain, about.why);
    page.gap();
    page.hang(2, "floor", 8, Tone::Plain, about.layer.name());
    page.hang(2, "source", 8, Tone::Plain, about.source);
    say(&page.text())?;
    Ok(DONE)
}

fn list(global: &Global, checks: &[About]) -> anyhow::Result<u8> {
    if global.json {
        return say(&(serde_json::to_string_pretty(checks)? + "\n")).map(|()| DONE);
    }
    let mut page = Page::new();
    for layer in Layer::ALL {
        page.gap();
        page.line(paint(Tone::Strong, layer.name()));
        for about in checks.iter().filter(|about| about.layer == layer) {
            page.hang(2, about.id.0, 34, Tone::Plain, about.title);
        }
    }
    say(&page.text())?;
    Ok(DONE)
}

/// docs/checks.md, whole.
fn pages(checks: &[About]) -> String {
    let mut text =
        String::from("# Every check\n\nMade by `thruway explain --markdown`; a test holds this file to the code.\n");
    for layer in Layer::ALL {
        text.push_str(&format!("\n## The {layer} floor\n"));
        for about in checks.iter().filter(|about| about.layer == layer) {
            text.push_str(&format!(
                "\n### {}\n\n{}.\n\n{}\n\nSource: {}\n",
                about.id, about.title, about.why, about.source
            ));
        }
    }
    text
}
