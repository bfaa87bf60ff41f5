//! Where the scheduler would let a pod go: selectors, affinity and taints, as the API documents them.

use crate::objects::{Expression, Node, PodSpec, Taint, Term, Toleration};

/// Node selection alone: `nodeSelector` and the required node affinity.
pub fn selects(pod: &PodSpec, node: &Node) -> bool {
    pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && pod.required.as_ref().is_none_or(|terms| terms.iter().any(|term| term_matches(term, node)))
}

/// The taints that keep the pod off. A DaemonSet's pods tolerate the node controller's own taints.
pub fn untolerated<'a>(pod: &PodSpec, node: &'a Node, daemon: bool) -> Vec<&'a Taint> {
    let blocks = |taint: &&Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !(daemon && taint.key.starts_with("node.kubernetes.io/"))
            && !pod.tolerations.iter().any(|toleration| tolerates(toleration, taint))
    };
    node.taints.iter().filter(blocks).collect()
}

/// True where a DaemonSet with this pod runs a pod on this node.
pub fn lands_on(pod: &PodSpec, node: &Node) -> bool {
    selects(pod, node) && untolerated(pod, node, true).is_empty()
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_ref().is_none_or(|effect| *effect == taint.effect);
    let key = match &toleration.key {
        Some(key) => *key == taint.key,
        None => toleration.exists,
    };
    effect && key && (toleration.exists || toleration.value == taint.value)
}

fn term_matches(term: &Term, node: &Node) -> bool {
    if term.labels.is_empty() && term.fields.is_empty() {
        return false;
    }
    let label = |e: &Expression| matches(e, node.labels.get(&e.key).map(String::as_str));
    let field = |e: &Expression| e.key == "metadata.name" && matches(e, Some(&node.name));
    term.labels.iter().all(label) && term.fields.iter().all(field)
}

fn matches(expression: &Expression, value: Option<&str>) -> bool {
    let among = |value: &str| expression.values.iter().any(|wanted| wanted == value);
    let compare = |wanted: std::cmp::Ordering| {
        let bound = expression.values.first().and_then(|bound| bound.parse::<i64>().ok());
        let value = value.and_then(|value| value.parse::<i64>().ok());
        value.zip(bound).is_some_and(|(value, bound)| value.cmp(&bound) == wanted)
    };
    match expression.operator.as_str() {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(std::cmp::Ordering::Greater),
        "Lt" => compare(std::cmp::Ordering::Less),
        _ => false,
    }
}
