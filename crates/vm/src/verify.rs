//! Whether a plan's effect is there: by the definition, and by the process that runs.

use gpu::Card;
use model::{Evidence, Intent, Outcome, OutcomeState, Source, Tell};

use crate::plan::full_name;
use crate::plan::target::{Target, find};
use crate::{Facts, Running, Vm, hint};

/// One outcome for each card, and one for the machine and its firmware.
pub fn verify(facts: &Facts, intent: &Intent) -> Vec<Outcome> {
    if !facts.here() {
        return Vec::new();
    }
    match find(facts, intent) {
        Target::Nothing(_) => Vec::new(),
        Target::Refused(refusal) => vec![Outcome {
            says: "the card is given to a VM".into(),
            state: OutcomeState::Unknown(refusal.says),
            evidence: Vec::new(),
        }],
        Target::Give(target) => {
            let mut outcomes: Vec<Outcome> = target.cards.iter().map(|card| has_card(facts, target.vm, card)).collect();
            outcomes.extend((!target.cards.is_empty()).then(|| machine(target.vm)));
            outcomes.extend(intent.hint.map(|tell| told(facts, target.vm, tell)));
            outcomes
        }
    }
}

fn has_card(facts: &Facts, vm: &Vm, card: &Card) -> Outcome {
    let functions = facts.functions(card);
    let lines: Vec<_> =
        vm.given.iter().filter(|given| given.functions.iter().any(|bdf| functions.contains(bdf))).collect();
    let mut evidence: Vec<Evidence> = lines
        .iter()
        .map(|given| Evidence { source: vm.source(given.line), value: format!("{}: {}", given.key, given.text) })
        .collect();
    let named = functions.iter().filter(|bdf| lines.iter().any(|given| given.functions.contains(bdf))).count();
    let pending = vm.pending.iter().find(|(key, value, _)| {
        key.starts_with("hostpci") && value.as_ref().is_some_and(|value| value.contains(&card.identity.bdf.slot()))
    });
    let state = match (&vm.running, pending) {
        (_, Some((key, value, line))) => {
            let value = format!("{key}: {}", value.as_deref().unwrap_or_default());
            evidence.push(Evidence { source: vm.source(*line), value });
            OutcomeState::Pending(format!("{}{}", model::A_VM_START, vm.title()))
        }
        _ if named == 0 => {
            evidence.push(Evidence { source: vm.source(None), value: "no line names it".into() });
            OutcomeState::Failed(format!("{} does not name it", vm.title()))
        }
        _ if named < functions.len() => {
            OutcomeState::Failed(format!("only {named} of its {} functions are named", functions.len()))
        }
        (Running::No, None) => OutcomeState::Pending(format!("a start of {}", vm.title())),
        (Running::Unknown(reason), None) => OutcomeState::Unknown(format!("the process of {}: {reason}", vm.title())),
        (Running::Yes { pid, args }, None) => {
            let source = Source::file(format!("/proc/{pid}/cmdline"));
            let has: Vec<String> = functions.iter().filter(|bdf| args.has(**bdf)).map(|bdf| bdf.short()).collect();
            // descriptors handed over by libvirt: the address is not on the command line
            let blind = args.vfio.iter().any(|device| device.host.is_none());
            if has.len() == functions.len() {
                evidence.push(Evidence { source, value: format!("vfio-pci: {}", has.join(", ")) });
                OutcomeState::Held
            } else if blind {
                OutcomeState::Unknown(format!("the process {pid} was given its devices as descriptors"))
            } else {
                evidence.push(Evidence { source, value: "no vfio-pci device with that address".into() });
                OutcomeState::Pending(format!("{}{}", model::A_VM_START, vm.title()))
            }
        }
    };
    Outcome { says: format!("{} runs with {}", vm.title(), full_name(card)), state, evidence }
}

/// What the guest is told: by the definition, and by the process.
fn told(facts: &Facts, vm: &Vm, tell: Tell) -> Outcome {
    let truth = if tell == Tell::Nothing { Vec::new() } else { hint::of_vm(facts, vm, tell == Tell::Named) };
    let line = vm.hints.first().and_then(|one| one.line);
    let value = match vm.hints.as_slice() {
        [] => "nothing of its cards' places".to_owned(),
        some => some.iter().map(|one| one.value.as_str()).collect::<Vec<_>>().join("  "),
    };
    let evidence = vec![Evidence { source: vm.source(line), value }];
    let state = match &vm.running {
        _ if !hint::same(&vm.hints, &truth) => OutcomeState::Failed(format!("{} says otherwise", vm.path)),
        Running::No => OutcomeState::Pending(format!("a start of {}", vm.title())),
        Running::Unknown(reason) => OutcomeState::Unknown(format!("the process of {}: {reason}", vm.title())),
        Running::Yes { args, .. } if args.hints.iter().eq(vm.hints.iter().map(|one| &one.value)) => OutcomeState::Held,
        Running::Yes { .. } => OutcomeState::Pending(format!("{}{}", model::A_VM_START, vm.title())),
    };
    let what = if tell == Tell::Nothing { "nothing of where its cards sit" } else { "where its cards sit" };
    Outcome { says: format!("{} tells its guest {what}", vm.title()), state, evidence }
}

fn machine(vm: &Vm) -> Outcome {
    let firmware = if vm.uefi { "OVMF" } else { "SeaBIOS" };
    let kind = if vm.q35 { "q35" } else { "i440fx" };
    let line = vm.machine.as_ref().and_then(|machine| machine.line);
    let value =
        vm.machine.as_ref().map_or("no machine line".to_owned(), |machine| format!("machine: {}", machine.value));
    let mut evidence = vec![Evidence { source: vm.source(line), value }];
    let waits = vm.pending.iter().any(|(key, _, _)| key == "machine" || key == "bios");
    let state = match &vm.running {
        _ if waits => OutcomeState::Pending(format!("{}{}", model::A_VM_START, vm.title())),
        Running::No => OutcomeState::Pending(format!("a start of {}", vm.title())),
        Running::Unknown(reason) => OutcomeState::Unknown(format!("the process of {}: {reason}", vm.title())),
        Running::Yes { pid, args } => {
            let is = args.machine.clone().unwrap_or_else(|| "pc".into());
            let uefi = args.firmware.is_some();
            evidence.push(Evidence {
                source: Source::file(format!("/proc/{pid}/cmdline")),
                value: format!("machine {is}, {}", if uefi { "a UEFI firmware" } else { "no UEFI firmware" }),
            });
            if is.contains("q35") == vm.q35 && uefi == vm.uefi {
                OutcomeState::Held
            } else {
                OutcomeState::Pending(format!("{}{}", model::A_VM_START, vm.title()))
            }
        }
    };
    Outcome { says: format!("{} runs as a {kind} machine by {firmware}", vm.title()), state, evidence }
}
