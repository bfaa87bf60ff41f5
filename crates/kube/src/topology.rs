//! Labels that carry the host's topology: where a node's cards really sit, as the node's hypervisor told it.
//!
//! Inside a VM the PCI tree is flat and `numa_node` is -1, so neither the kubelet nor a scheduler can know it otherwise.
//!
//! | label | value |
//! |---|---|
//! | `thruway.dev/gpu-N.host-address` | "0000-26-00.0": the address on the host, `:` written as `-` |
//! | `thruway.dev/gpu-N.host-slot` | the physical slot |
//! | `thruway.dev/gpu-N.host-numa` | the host's NUMA node |
//! | `thruway.dev/gpu-N.host-link` | "8.0x4": GT/s and lanes at most |
//! | `thruway.dev/host-numa` | the node of all cards, where it is one |
//! | `thruway.dev/host` | the host's name, where it was told |
//!
//! N counts the node's cards that were told of, from 0, by their address in the guest. Values keep the API's rule (at most
//! 63 characters; letters, digits, `-`, `_`, `.`; a letter or digit at both ends) since hints keep it. Source:
//! kubernetes.io, Labels and Selectors.

use std::collections::BTreeMap;

use formats::hint::Hint;
use gpu::Inventory;
use model::{Bdf, Seen};

/// What all labels of this module begin with.
pub const PREFIX: &str = "thruway.dev/";

/// The labels of a node with these cards, from what its hypervisor told it.
pub fn of(gpus: &Inventory) -> Seen<BTreeMap<String, String>> {
    let place = |card: &gpu::Card| Some((card.identity.bdf, gpus.place(card)?.clone()));
    match (&gpus.hints, &gpus.looked) {
        (Seen::Unreadable(reason), _) | (_, Seen::Unreadable(reason)) => Seen::Unreadable(reason.clone()),
        _ => Seen::Is(labels(&gpus.nvidia().filter_map(place).collect::<Vec<_>>())),
    }
}

/// The labels of a node whose cards sit there; `places` is each card's address in the guest and its hint.
pub fn labels(places: &[(Bdf, Hint)]) -> BTreeMap<String, String> {
    let mut places: Vec<&(Bdf, Hint)> = places.iter().collect();
    places.sort_by_key(|(bdf, _)| *bdf);
    let mut all = BTreeMap::new();
    for (number, (_, hint)) in places.iter().enumerate() {
        let values = [
            ("address", Some(hint.pci.to_string().replace(':', "-"))),
            ("slot", hint.slot.clone()),
            ("numa", hint.numa.map(|node| node.to_string())),
            ("link", hint.max.map(|link| link.to_string())),
        ];
        let values = values.into_iter().filter_map(|(name, value)| Some((name, value?)));
        all.extend(values.map(|(name, value)| (format!("{PREFIX}gpu-{number}.host-{name}"), value)));
    }
    let mut one_of_all = |name: &str, value: &dyn Fn(&Hint) -> Option<String>| {
        let first = places.first().and_then(|(_, hint)| value(hint));
        if let Some(first) = first.filter(|first| places.iter().all(|(_, hint)| value(hint).as_ref() == Some(first))) {
            all.insert(format!("{PREFIX}{name}"), first);
        }
    };
    one_of_all("host-numa", &|hint| hint.numa.map(|node| node.to_string()));
    one_of_all("host", &|hint| hint.host.clone());
    all
}

/// True for a label that [`labels`] can have written.
pub fn is_ours(key: &str) -> bool {
    let Some(name) = key.strip_prefix(PREFIX) else { return false };
    let of_a_card = name.strip_prefix("gpu-").and_then(|rest| rest.split_once(".host-"));
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    matches!(name, "host" | "host-numa")
        || of_a_card.is_some_and(|(card, what)| number(card) && matches!(what, "address" | "slot" | "numa" | "link"))
}

/// What must change so that a node's labels are these and no others of ours: key and new value, none to take it off.
pub fn changes(now: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> Vec<(String, Option<String>)> {
    let set = wanted.iter().filter(|(key, value)| now.get(*key) != Some(value));
    let set = set.map(|(key, value)| (key.clone(), Some(value.clone())));
    let gone = now.keys().filter(|key| is_ours(key) && !wanted.contains_key(*key)).map(|key| (key.clone(), None));
    set.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(text: &str) -> Hint {
        Hint::parse(&format!("thruway.dev/gpu:1;id=10de:2330;{text}")).expect("a hint")
    }

    fn valid(value: &str) -> bool {
        formats::hint::is_name(value)
    }

    #[test]
    fn each_card_and_what_all_share() {
        let places = [
            (Bdf::new(0, 2, 0, 0), hint("pci=0000:5d:00.0;slot=6;numa=1;max=32.0x16;host=rack-7")),
            (Bdf::new(0, 1, 0, 0), hint("pci=0000:19:00.0;slot=4;numa=1;host=rack-7")),
        ];
        let labels = labels(&places);
        let of = |key: &str| labels.get(&format!("{PREFIX}{key}")).map(String::as_str);
        assert_eq!((of("gpu-0.host-address"), of("gpu-1.host-address")), (Some("0000-19-00.0"), Some("0000-5d-00.0")));
        assert_eq!((of("gpu-0.host-slot"), of("gpu-1.host-slot")), (Some("4"), Some("6")));
        assert_eq!((of("gpu-0.host-link"), of("gpu-1.host-link")), (None, Some("32.0x16")));
        assert_eq!((of("host-numa"), of("host")), (Some("1"), Some("rack-7")));
        assert_eq!(labels.len(), 9);
        assert!(labels.iter().all(|(key, value)| valid(value) && is_ours(key) && key.len() < 63), "{labels:?}");
        // two nodes, or one that is not known: nothing that all share
        let apart = super::labels(&[places[0].clone(), (Bdf::new(0, 1, 0, 0), hint("pci=19:00.0"))]);
        assert!(!apart.contains_key("thruway.dev/host-numa") && !apart.contains_key("thruway.dev/host"));
        assert_eq!(super::labels(&[]).len(), 0);
    }

    #[test]
    fn only_ours_go() {
        let wanted = labels(&[(Bdf::new(0, 1, 0, 0), hint("pci=19:00.0;slot=4"))]);
        let mut now: BTreeMap<String, String> = [
            ("thruway.dev/mine", "x"),
            ("thruway.dev/gpu-1.host-slot", "6"),
            ("thruway.dev/gpu-0.host-slot", "5"),
            ("gpu", "y"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let changes_now = changes(&now, &wanted);
        let change = |key: &str, value: Option<&str>| (format!("{PREFIX}{key}"), value.map(str::to_owned));
        assert_eq!(
            changes_now,
            [
                change("gpu-0.host-address", Some("0000-19-00.0")),
                change("gpu-0.host-slot", Some("4")),
                change("gpu-1.host-slot", None)
            ]
        );
        for (key, value) in changes_now {
            match value {
                Some(value) => drop(now.insert(key, value)),
                None => drop(now.remove(&key)),
            }
        }
        assert_eq!(changes(&now, &wanted), []);
        assert!(now.contains_key("thruway.dev/mine"));
    }
}
