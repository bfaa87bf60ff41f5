//! A GPU's cordon: no new pod gets it, those that have it go on. It is said by an annotation of the Node, or by a file of the
//! node where no API is reached; the agent holds to both.

use std::collections::BTreeSet;

use machine::{Machine, MachineExt as _};
use model::{Bdf, Seen};
use serde_json::Value;

/// "GPU-uuid,GPU-uuid": the UUIDs or addresses of cordoned GPUs.
pub const ANNOTATION: &str = "thruway.dev/cordon";
/// The same, one a line; `#` begins a comment.
pub const FILE: &str = "/var/lib/thruway/node/cordon";

/// The most that is taken in: more than a node can have, MIG devices counted.
const MOST: usize = 256;

/// The cordoned GPUs, as they are called: UUIDs in lower case but for their prefix, or addresses in full.
pub type Cordoned = BTreeSet<String>;

/// From a text with commas or lines. What is neither a UUID nor an address is told in words.
pub fn parse(text: &str) -> (Cordoned, Vec<String>) {
    let (mut all, mut bad) = (Cordoned::new(), Vec::new());
    let lines = text.lines().map(|line| line.split_once('#').map_or(line, |(line, _)| line));
    for word in lines.flat_map(|line| line.split([',', ' ', '\t'])).map(str::trim).filter(|word| !word.is_empty()) {
        match named(word) {
            Some(name) if all.len() < MOST => drop(all.insert(name)),
            Some(_) => bad.push(format!("more than {MOST} GPUs are cordoned; {word} is passed over")),
            None => bad.push(format!("{word:?} is neither a GPU's UUID (GPU-…, MIG-…) nor its address (0000:01:00.0)")),
        }
    }
    bad.truncate(16);
    (all, bad)
}

/// A GPU's name in the one form in which names are compared.
pub fn named(word: &str) -> Option<String> {
    if word.len() > 128 {
        return None;
    }
    for prefix in ["GPU-", "MIG-"] {
        let rest = word.get(..4).filter(|head| head.eq_ignore_ascii_case(prefix)).and_then(|_| word.get(4..));
        if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
            let plain = rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'/'));
            return plain.then(|| format!("{prefix}{}", rest.to_ascii_lowercase()));
        }
    }
    let full = if word.matches(':').count() == 1 { format!("0000:{word}") } else { word.to_owned() };
    full.parse::<Bdf>().ok().map(|bdf| bdf.to_string())
}

/// True where the GPU with that UUID and address is cordoned.
pub fn holds(cordoned: &Cordoned, uuid: Option<&str>, bdf: Bdf) -> bool {
    let by_uuid = uuid.and_then(named).is_some_and(|uuid| cordoned.contains(&uuid));
    by_uuid || cordoned.contains(&bdf.to_string())
}

/// By the Node's annotation.
pub fn of_node(node: &Value) -> (Cordoned, Vec<String>) {
    let annotations = node.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let text = annotations.and_then(|all| all.get(ANNOTATION)).and_then(Value::as_str);
    parse(text.unwrap_or_default())
}

/// By the node's file. A file that cannot be read cordons nothing and is told.
pub fn of_file(machine: &dyn Machine) -> (Cordoned, Vec<String>) {
    match machine.text(FILE) {
        Seen::Is(text) => parse(&text),
        Seen::Absent => (Cordoned::new(), Vec::new()),
        Seen::Unreadable(why) => (Cordoned::new(), vec![format!("{FILE} cannot be read: {why}")]),
    }
}

/// The text with these GPUs put in, or taken out: for the annotation with commas.
pub fn changed(text: &str, gpus: &[String], cordon: bool) -> Cordoned {
    let (mut all, _) = parse(text);
    for gpu in gpus {
        match cordon {
            true => drop(all.insert(gpu.clone())),
            false => drop(all.remove(gpu)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn uuids_and_addresses_by_commas_or_lines() {
        let (all, bad) = parse("GPU-AB-1, gpu-cd-2\n# a comment\n26:00.0  # the GT 1030\nMIG-GPU-7/1/0\nnonsense,-");
        let names: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(names, ["0000:26:00.0", "GPU-ab-1", "GPU-cd-2", "MIG-gpu-7/1/0"]);
        assert_eq!(bad.len(), 2, "{bad:?}");
        assert!(bad[0].contains("nonsense"));
        let card = Bdf::new(0, 0x26, 0, 0);
        assert!(holds(&all, None, card) && holds(&all, Some("GPU-AB-1"), Bdf::new(0, 1, 0, 0)));
        assert!(!holds(&all, Some("GPU-ab-2"), Bdf::new(0, 1, 0, 0)));
    }

    #[test]
    fn of_a_node_and_back() {
        let node = json!({"metadata": {"annotations": {ANNOTATION: "GPU-ab-1"}}});
        assert_eq!(of_node(&node).0.len(), 1);
        assert_eq!(of_node(&json!({})).0.len(), 0);
        let more = changed("GPU-ab-1", &["0000:26:00.0".into()], true);
        assert_eq!(more.len(), 2);
        let text: Vec<String> = more.into_iter().collect();
        assert_eq!(changed(&text.join(","), &["0000:26:00.0".into()], false), parse("GPU-ab-1").0);
    }

    #[test]
    fn a_hostile_annotation_is_bounded() {
        let many: Vec<String> = (0..10_000).map(|n| format!("GPU-{n}")).collect();
        let (all, bad) = parse(&many.join(","));
        assert_eq!((all.len(), bad.len()), (MOST, 16));
        assert!(named(&"GPU-x".repeat(100)).is_none() && named("GPU-é").is_none() && named("GPU-").is_none());
    }
}
