//! Answers that are out of form, and what becomes of them. The whole way is in crates/thruway/tests/vm_pve.rs.

use machine::{Machine as _, MachineExt as _};
use model::Intent;
use serde_json::json;

use super::*;

fn answers(config: Value, pending: Option<Value>, functions: Vec<Value>) -> Answers {
    let one = VmAnswer { name: "media".into(), runs: Some(false), config: Seen::Is(config), pending };
    Answers {
        url: "https://192.0.2.10:8006".into(),
        user: "thruway@pve!t1".into(),
        node: "pve".into(),
        version: "8.2.4".into(),
        permissions: json!({}),
        vms: BTreeMap::from([(100, one)]),
        storages: vec![
            ("local\nevil: x".into(), "dir".into(), "images".into()),
            ("zfs".into(), "zfspool".into(), "images".into()),
        ],
        mappings: Seen::Is(vec![("gpu".into(), vec!["node=pve,path=0000:26:00\n\tmap node=x".into()])]),
        functions: Seen::Is(functions),
    }
}

fn card() -> Value {
    json!({"id": "0000:26:00.0", "class": "0x030000", "vendor": "0x10de", "device": "0x1d01", "iommugroup": 14,
           "vendor_name": "NVIDIA\nCorporation", "device_name": "GP108"})
}

const CONF: &str = "/etc/pve/qemu-server/100.conf";

#[test]
fn a_config_is_printed_as_proxmox_ve_has_it() {
    let pending = json!([
        {"key": "memory", "value": "4096", "pending": 8192}, {"key": "balloon", "value": 0, "delete": 1},
        {"key": "cpu", "pending": "host"}, {"key": "digest", "value": "aa"}, {"key": "description", "value": "a\nb"},
    ]);
    let config = json!({"memory": "8192", "digest": "aa", "parent": "before"});
    let tree = answers(config, Some(pending), vec![card()]).machine();
    let text = "balloon: 0\nmemory: 4096\n\n[PENDING]\ndelete: balloon\ncpu: host\nmemory: 8192\n\n[before]\n";
    assert_eq!(tree.text(CONF), Seen::Is(text.to_owned()));
    assert_eq!(tree.kind(), Kind::Remote);
    assert_eq!(tree.list("/run/qemu-server"), Seen::Is(vec![]), "it does not run");
    assert_eq!(tree.list(DEVICES), Seen::Is(vec!["0000:26:00.0".to_owned()]));
    assert_eq!(tree.link_name(&format!("{DEVICES}/0000:26:00.0/iommu_group")), Seen::Is("14".to_owned()));
}

#[test]
fn what_the_api_does_not_tell_is_not_absent() {
    let tree = answers(json!({"digest": "aa"}), None, vec![card()]).machine();
    for path in
        ["/proc", "/sys/module", "/var/lib/dpkg/status", "/etc/pve/jobs.cfg", "/etc/libvirt/qemu", "/sys/bus/pci/slots"]
    {
        assert_eq!(tree.list(path).unreadable(), Some(&untold()), "{path}");
    }
    assert_eq!(tree.link(&format!("{DEVICES}/0000:26:00.0/driver")).unreadable(), Some(&untold()));
    assert_eq!(tree.ask(&Question::Nvml).unreadable(), Some(&untold()));
}

#[test]
fn hostile_answers_write_no_lines_and_never_panic() {
    for config in [
        json!({"name": "x\nhostpci0: 0000:01:00"}),
        json!({"na me": "x"}),
        json!({"[PENDING]": "x"}),
        json!({"memory": ["a"]}),
        json!("no object"),
        json!(null),
    ] {
        let tree = answers(config.clone(), None, vec![card()]).machine();
        assert!(matches!(tree.read(CONF), Seen::Unreadable(Reason::Malformed(_))), "{config}");
    }
    let tree = answers(json!({}), Some(json!({"no": "list"})), vec![]).machine();
    assert!(matches!(tree.read(CONF), Seen::Unreadable(Reason::Malformed(_))));
    for bad in [
        json!({"id": "../../etc"}),
        json!(7),
        json!({"id": "0000:26:00.0", "class": "x", "vendor": "", "device": "0x1"}),
    ] {
        let tree = answers(json!({}), None, vec![card(), bad.clone()]).machine();
        assert!(
            matches!(tree.list(DEVICES), Seen::Unreadable(Reason::Malformed(_))),
            "{bad}: a function may be hidden"
        );
    }
    let tree = answers(json!({}), None, vec![card()]).machine();
    assert_eq!(tree.text("/etc/pve/storage.cfg"), Seen::Is("zfspool: zfs\n\tcontent images\n".to_owned()));
    assert_eq!(tree.text(MAPPING), Seen::Is("gpu\n".to_owned()));
    assert_eq!(tree.text("/usr/share/misc/pci.ids"), Seen::Is("10de  NVIDIA Corporation\n\t1d01  GP108\n".to_owned()));
}

#[test]
fn a_vm_without_a_digest_is_not_changed() {
    let answers = answers(json!({"memory": "4096"}), None, vec![card()]);
    let mut plan = model::Plan::new(model::Layer::Vm, &Intent::default(), BTreeMap::new());
    plan.changes.push(model::Change {
        layer: model::Layer::Vm,
        title: "VM 100".into(),
        op: model::Op::Proxmox {
            vmid: 100,
            set: vec![("hostpci0".into(), "26:00.0;26:00.1,pcie=1".into())],
            delete: vec![],
            digest: "ours".into(),
            before: vec![],
        },
        expects: model::Before::Nothing,
        because: vec![],
        risk: vec![],
        effective: model::Effective::NextVmStart,
        undo: model::Undo::Inverse,
    });
    answers.fit(&mut plan);
    assert!(plan.changes.is_empty(), "{plan:?}");
    assert!(plan.refusals.iter().any(|refusal| refusal.says.contains("no digest")), "{plan:?}");
    let ways: Vec<&str> = plan.refusals.iter().map(|refusal| refusal.instead.as_str()).collect();
    assert!(
        ways.iter().any(|way| way
            .contains("--id gpu-26-00-0 --map 'node=pve,path=0000:26:00.0;0000:26:00.1,id=10de:1d01,iommugroup=14'")),
        "{ways:?}"
    );
}
