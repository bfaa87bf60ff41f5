//! What is shipped beside the program: every metric that a dashboard, a rule or the manual names is really there.

use std::collections::BTreeSet;
use std::process::Command;

use watch::serve::{Kind, Options, catalogue};

use super::client::{here, root, run};

fn known() -> BTreeSet<&'static str> {
    catalogue(Options::default()).expect("a thread").into_iter().map(|family| family.name).collect()
}

/// Names that begin with `thruway_` in a text of PromQL.
fn named(text: &str) -> BTreeSet<&str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !word(c)).filter(|word| word.starts_with("thruway_")).collect()
}

fn expressions(value: &serde_json::Value, out: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(text) if matches!(key.as_str(), "expr" | "definition") => out.push(text.to_owned()),
                    _ => expressions(value, out),
                }
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| expressions(value, out)),
        _ => {}
    }
}

#[test]
fn the_dashboard_names_what_is_there() {
    let text = std::fs::read_to_string(root().join("dist/grafana/thruway.json")).expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mut all = Vec::new();
    expressions(&dashboard, &mut all);
    let known = known();
    assert!(all.len() >= 15, "{all:?}");
    for expression in &all {
        let names = named(expression);
        assert!(!names.is_empty() || expression.starts_with("label_values"), "{expression} names none of ours");
        for name in names {
            assert!(known.contains(name), "{name} is no metric of ours: {expression}");
        }
    }
    let ids: Vec<_> =
        dashboard["panels"].as_array().expect("panels").iter().map(|panel| panel["id"].as_i64()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "each panel has its own id");
    if here("promtool") {
        // a rule file is the way to have promtool read an expression
        let rules: Vec<_> = (0..)
            .zip(&all)
            .filter(|(_, expr)| !expr.starts_with("label_values"))
            .map(|(n, expr)| {
                let expr = expr.replace("$__rate_interval", "5m");
                serde_json::json!({ "record": format!("panel:{n}"), "expr": expr })
            })
            .collect();
        let file = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string();
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("rules.yml");
        std::fs::write(&path, file).expect("a file");
        let (code, said) = run(Command::new("promtool").args(["check", "rules"]).arg(&path));
        assert_eq!(code, 0, "{said}");
    }
}

#[test]
fn the_rules_hold_and_name_what_is_there() {
    let dir = root().join("dist/prometheus");
    let text = std::fs::read_to_string(dir.join("thruway.rules.yml")).expect("the rules");
    let known = known();
    let expressions: String =
        text.lines().filter(|line| !line.trim_start().starts_with(['#', '-'])).collect::<Vec<_>>().join("\n");
    let names = named(&expressions);
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        assert!(known.contains(name), "{name} is no metric of ours");
    }
    if here("promtool") {
        let (code, said) = run(Command::new("promtool").args(["check", "rules"]).arg(dir.join("thruway.rules.yml")));
        assert_eq!(code, 0, "{said}");
        let (code, said) =
            run(Command::new("promtool").args(["test", "rules"]).arg(dir.join("thruway.rules.test.yml")));
        assert_eq!(code, 0, "{said}");
    }
}

#[test]
fn the_unit_is_one_that_systemd_reads() {
    if !here("systemd-analyze") {
        return;
    }
    let unit = root().join("dist/systemd/thruway-serve.service");
    let (_, said) = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit));
    // the program is not installed where it is tested
    let other: Vec<&str> = said.lines().filter(|line| !line.contains("/usr/bin/thruway is not executable")).collect();
    assert!(other.is_empty(), "{said}");
    let (_, said) =
        run(Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=40"]).arg(&unit));
    assert!(!said.contains("UNSAFE") && !said.contains("EXPOSED"), "{said}");
}

/// The manual's table, as it is made of the metrics.
fn table() -> String {
    let mut table = String::from("| metric | kind | what |\n|---|---|---|\n");
    for family in catalogue(Options::default()).expect("a thread") {
        let kind = match family.kind {
            Kind::Info => "info",
            kind => kind.name(),
        };
        table.push_str(&format!("| `{}` | {kind} | {} |\n", family.name, family.help));
    }
    table
}

#[test]
fn the_manual_lists_every_metric() {
    let path = root().join("docs/serve.md");
    let text = std::fs::read_to_string(&path).expect("the manual");
    let (before, rest) = text.split_once("<!-- metrics -->\n").expect("where the table begins");
    let (now, after) = rest.split_once("<!-- end -->").expect("where it ends");
    let table = table();
    if std::env::var_os("THRUWAY_BLESS").is_some() {
        std::fs::write(&path, format!("{before}<!-- metrics -->\n{table}<!-- end -->{after}")).expect("the manual");
    } else {
        assert_eq!(now, table, "THRUWAY_BLESS=1 cargo test -p thruway-watch --test serve writes it anew");
    }
}
