//! The Helm chart, rendered by the few words of Go's templates that it keeps to, is what `Placement` makes with the same
//! choices, and that is held to the API's types. The renderer knows no word more; one that it does not know is an error.
#![allow(clippy::disallowed_methods, reason = "a test reads the chart's files")]

use std::collections::BTreeMap;
use std::path::Path;

use kube::{Access, Placement};
use serde_json::{Value, json};

fn chart() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/helm/thruway")
}

struct Chart {
    values: Value,
    meta: Value,
    namespace: String,
    named: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq)]
enum Part<'a> {
    Text(&'a str),
    Action(&'a str),
}

/// Splits a template; `{{-` and `-}}` take the white space at their side away.
fn parts(template: &str) -> Vec<Part<'_>> {
    let mut all = Vec::new();
    let (mut rest, mut trim) = (template, false);
    loop {
        let (text, after) = rest.split_once("{{").map_or((rest, None), |(text, after)| (text, Some(after)));
        let text = if trim { text.trim_start() } else { text };
        let Some(after) = after else {
            all.push(Part::Text(text));
            return all;
        };
        let (action, next) = after.split_once("}}").expect("an action ends");
        let before = action.starts_with("- ");
        trim = action.ends_with(" -");
        all.push(Part::Text(if before { text.trim_end() } else { text }));
        all.push(Part::Action(action.trim_start_matches("- ").trim_end_matches(" -").trim()));
        rest = next;
    }
}

/// Words and texts, with parentheses by themselves.
fn words(action: &str) -> Vec<String> {
    let (mut all, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in action.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.push(c);
            }
            ' ' if !quoted => all.push(std::mem::take(&mut word)),
            '(' | ')' | '|' if !quoted => {
                all.push(std::mem::take(&mut word));
                all.push(c.to_string());
            }
            c => word.push(c),
        }
    }
    all.push(word);
    all.retain(|word| !word.is_empty());
    all
}

fn truth(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false)) && *value != json!("")
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl Chart {
    fn load(set: &[(&str, Value)], namespace: &str) -> Chart {
        let read = |name: &str| std::fs::read_to_string(chart().join(name)).expect("the chart's file");
        let mut values = formats::yamlin::parse(&read("values.yaml")).expect("values");
        for (pointer, value) in set {
            *values.pointer_mut(pointer).expect("a value of the chart") = value.clone();
        }
        let meta = formats::yamlin::parse(&read("Chart.yaml")).expect("Chart.yaml");
        let mut chart = Chart { values, meta, namespace: namespace.into(), named: BTreeMap::new() };
        let helpers = read("templates/_helpers.tpl");
        for definition in helpers.split("{{- define ").skip(1) {
            let (name, body) = definition.split_once(" -}}").expect("a definition");
            let (body, _) = body.rsplit_once("{{- end -}}").expect("its end");
            chart.named.insert(name.trim_matches('"').into(), body.trim().into());
        }
        chart
    }

    fn lookup(&self, path: &str) -> Value {
        let mut way = path.trim_start_matches('.').split('.');
        let root = match way.next() {
            Some("Values") => self.values.clone(),
            Some("Release") => json!({"Namespace": self.namespace}),
            Some("Chart") => json!({"AppVersion": self.meta["appVersion"]}),
            other => panic!("{other:?} is no root that is known"),
        };
        way.fold(root, |here, key| here.get(key).unwrap_or_else(|| panic!("{path}: no {key}")).clone())
    }

    fn evaluate(&self, words: &[String]) -> Value {
        let mut stages: Vec<Vec<String>> = vec![Vec::new()];
        let mut depth = 0;
        for word in words {
            match word.as_str() {
                "(" => depth += 1,
                ")" => depth -= 1,
                "|" if depth == 0 => {
                    stages.push(Vec::new());
                    continue;
                }
                _ => {}
            }
            stages.last_mut().expect("one").push(word.clone());
        }
        let mut value = None;
        for stage in stages {
            value = Some(self.call(&stage, value));
        }
        value.expect("a stage")
    }

    fn call(&self, stage: &[String], piped: Option<Value>) -> Value {
        let mut arguments = Vec::new();
        let mut at = 0;
        while at < stage.len() {
            if stage[at] == "(" {
                let end = (at..stage.len()).find(|end| stage[*end] == ")").expect("a parenthesis ends");
                arguments.push(self.evaluate(&stage[at + 1..end]));
                at = end;
            } else if let Some(quoted) = stage[at].strip_prefix('"') {
                arguments.push(json!(quoted.trim_end_matches('"')));
            } else if stage[at].len() > 1 && stage[at].starts_with('.') {
                arguments.push(self.lookup(&stage[at]));
            } else {
                arguments.push(json!({"word": stage[at]}));
            }
            at += 1;
        }
        arguments.extend(piped);
        let word = arguments[0].get("word").and_then(Value::as_str).map(str::to_owned);
        let rest = &arguments[1..];
        match word.as_deref() {
            None => arguments[0].clone(),
            Some("eq") => json!(rest[0] == rest[1]),
            Some("ne") => json!(rest[0] != rest[1]),
            Some("and") => rest.iter().find(|value| !truth(value)).unwrap_or(&rest[rest.len() - 1]).clone(),
            Some("quote") => json!(json!(text(&rest[0])).to_string()),
            Some("default") => {
                if truth(&rest[1]) {
                    rest[1].clone()
                } else {
                    rest[0].clone()
                }
            }
            Some("printf") => json!(text(&rest[0]).replacen("%s", &text(&rest[1]), 1)),
            Some("include") => json!(self.render(&self.named[&text(&rest[0])])),
            Some(other) => panic!("{other} is no word of this chart"),
        }
    }

    fn render(&self, template: &str) -> String {
        let mut out = String::new();
        // of each open `if`: does this branch count, has one counted, does what is around it
        let mut open: Vec<(bool, bool, bool)> = Vec::new();
        for part in parts(template) {
            let live = open.last().is_none_or(|(now, ..)| *now);
            let action = match part {
                Part::Text(text) => {
                    if live {
                        out.push_str(text);
                    }
                    continue;
                }
                Part::Action(action) => words(action),
            };
            match action[0].as_str() {
                "if" => {
                    let now = live && truth(&self.evaluate(&action[1..]));
                    open.push((now, now, live));
                }
                "else" => {
                    let (now, done, around) = open.last_mut().expect("else stands in an if");
                    *now = *around && !*done;
                }
                "end" => drop(open.pop().expect("end stands in an if")),
                _ if live => out.push_str(&text(&self.evaluate(&action))),
                _ => {}
            }
        }
        assert!(open.is_empty(), "an if without an end");
        out
    }

    fn objects(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for name in ["rights.yaml", "policy.yaml", "agent.yaml", "discover.yaml"] {
            let template = std::fs::read_to_string(chart().join("templates").join(name)).expect("a template");
            let rendered = self.render(&template);
            all.extend(formats::yamlin::parse_all(&rendered).unwrap_or_else(|bad| panic!("{name}: {bad}\n{rendered}")));
        }
        all
    }
}

/// Objects by kind and name; where they stand in a list is none of what they say.
fn sorted(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let key = |object: &Value| format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]));
    objects.into_iter().filter(|object| object["kind"] != "Namespace").map(|object| (key(&object), object)).collect()
}

fn hold(name: &str, set: &[(&str, Value)], placement: Placement) {
    let rendered = sorted(Chart::load(set, &placement.namespace).objects());
    let wanted = sorted(placement.objects());
    assert_eq!(rendered.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{name}");
    for (key, object) in &wanted {
        assert_eq!(
            formats::yamlout::print(&ordered(&rendered[key])),
            formats::yamlout::print(&ordered(object)),
            "{name}: {key}"
        );
    }
}

/// Keys in their order, so that a difference shows as lines.
fn ordered(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let map: BTreeMap<String, Value> = map.iter().map(|(key, value)| (key.clone(), ordered(value))).collect();
            map.into_iter().collect()
        }
        // arguments and mounts come in another order where they are chosen
        Value::Array(list) => {
            let mut list: Vec<Value> = list.iter().map(ordered).collect();
            if list.iter().all(|item| item.is_string() || item.get("name").is_some()) {
                list.sort_by_key(ToString::to_string);
            }
            list.into()
        }
        other => other.clone(),
    }
}

#[test]
fn the_chart_is_what_manifests_prints() {
    hold("as it comes", &[], Placement::default());
    hold(
        "privileged, little",
        &[
            ("/agent/access", json!("privileged")),
            ("/discover/enabled", json!(false)),
            ("/policy/enabled", json!(false)),
            ("/image/repository", json!("registry.example/gpu/thruway-node")),
            ("/image/tag", json!("9")),
            ("/image/pullPolicy", json!("Always")),
        ],
        Placement {
            access: Access::Privileged,
            discover: false,
            policy: false,
            image: "registry.example/gpu/thruway-node:9".into(),
            pull_policy: "Always".into(),
            ..Placement::default()
        },
    );
    hold(
        "with everything",
        &[
            ("/agent/audit", json!(true)),
            ("/agent/createRuntimeClass", json!(true)),
            ("/agent/runtimeClassName", json!("gpu")),
            ("/agent/driverRoot", json!("/run/nvidia/driver")),
            ("/agent/kubeletDir", json!("/var/lib/k0s/kubelet")),
            ("/config", json!("version: v1\nflags:\n  migStrategy: \"mixed\"\n")),
        ],
        Placement {
            namespace: "gpu".into(),
            audit: true,
            create_runtime_class: true,
            runtime_class: Some("gpu".into()),
            driver_root: "/run/nvidia/driver".into(),
            kubelet_dir: "/var/lib/k0s/kubelet".into(),
            config: Some("version: v1\nflags:\n  migStrategy: \"mixed\"\n".into()),
            ..Placement::default()
        },
    );
}

#[test]
fn the_renderer_knows_its_few_words_alone() {
    let chart = Chart::load(&[], "x");
    assert_eq!(
        chart.render("a {{- if .Values.config }} b {{- else }} c {{- end }}\nd {{ .Release.Namespace | quote }}"),
        "a c\nd \"x\""
    );
    assert_eq!(chart.render("{{ include \"thruway.image\" . }}"), "thruway-node:0.1.0");
    assert!(std::panic::catch_unwind(|| chart.render("{{ lookup .Values.config }}")).is_err());
    assert!(std::panic::catch_unwind(|| chart.render("{{ .Values.none }}")).is_err());
}

/// What `helm lint` asks of a chart.
#[test]
fn the_charts_own_files_are_whole() {
    let chart = Chart::load(&[], "x");
    for key in ["apiVersion", "name", "version", "description", "appVersion"] {
        assert!(chart.meta[key].is_string(), "{key}");
    }
    assert_eq!(chart.meta["name"], chart_name());
    assert_eq!(chart.meta["version"], env!("CARGO_PKG_VERSION"), "the chart goes with the program");
    assert_eq!(chart.meta["appVersion"], env!("CARGO_PKG_VERSION"));
}

fn chart_name() -> String {
    chart().file_name().expect("a name").to_string_lossy().into_owned()
}
