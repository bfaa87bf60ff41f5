//! The label that says a GPU works on a node. Only evidence sets it: the driver answers here, or a device plugin offers
//! GPUs there. A card's mere presence does not, since nouveau, vfio-pci or nobody may hold it.

use model::{Plan, Risk, Seen};

use super::{label, label_all};
use crate::objects::{Node, PRESENT};
use crate::placement::selects;
use crate::{Facts, topology};

/// Plans the labels, and gives the nodes as they will be.
pub(super) fn plan(facts: &Facts, nodes: &[Node], plan: &mut Plan) -> Vec<Node> {
    let mut after = nodes.to_vec();
    for node in &mut after {
        let labelled = node.labels.get(PRESENT).map(String::as_str) == Some("true");
        if facts.has_gpu(node) && !labelled {
            let because = if facts.is_me(node) && facts.working.get().is_some_and(|count| *count > 0) {
                "a driver answers here"
            } else {
                "it offers GPUs already"
            };
            plan.intent.push(format!("inferred: mark node {} as one whose GPU works, since {because}", node.name));
            let title = format!("label node {} {PRESENT}=true", node.name);
            let mut because = vec!["cluster/gpu-node-unlabelled"];
            if facts.plugins().iter().any(|set| !nodes.iter().any(|node| selects(&set.pod, node))) {
                because.push("cluster/nfd-label-trap");
            }
            plan.changes.push(label(node, PRESENT, Some("true"), title, &because, Vec::new()));
            node.labels.insert(PRESENT.into(), "true".into());
        } else if labelled && gone(facts, node) {
            let title = format!("take the label {PRESENT} off node {}: no NVIDIA card is in it", node.name);
            let risk = vec![Risk::Outage(format!("the device plugin's pod leaves node {}", node.name))];
            plan.intent.push(format!("inferred: node {} has no GPU any more", node.name));
            plan.changes.push(label(node, PRESENT, None, title, &["cluster/label-without-gpu"], risk));
            node.labels.remove(PRESENT);
        }
    }
    // the API's word of this node as it is, and what the hypervisor told it
    if let (Some(me), Seen::Is(wanted)) = (facts.own_node(), &facts.topology.value) {
        let changes = topology::changes(&me.labels, wanted);
        if !changes.is_empty() {
            plan.intent.push(format!("inferred: label node {} with where its cards sit, as its host told it", me.name));
            let title = format!("label node {} with its cards' places on the host", me.name);
            plan.changes.push(label_all(me, &changes, title, &["cluster/host-topology"], Vec::new()));
        }
    }
    if let (Some(me), Seen::Is(cards)) = (facts.own_node(), &facts.cards)
        && !cards.is_empty()
        && !facts.has_gpu(me)
    {
        let cards = cards.join(", ");
        plan.notes.push(match &facts.working.value {
            Seen::Unreadable(reason) => {
                format!(
                    "node {} is not labelled: whether a driver works for {cards} could not be seen ({reason})",
                    me.name
                )
            }
            _ => format!(
                "node {} is not labelled yet: no NVIDIA driver answers for {cards}; plan the guest floor first",
                me.name
            ),
        });
    }
    after
}

/// Certain: we looked, and this machine has no NVIDIA card.
fn gone(facts: &Facts, node: &Node) -> bool {
    facts.is_me(node) && facts.offers(node) == 0 && matches!(&facts.cards, Seen::Is(cards) if cards.is_empty())
}
