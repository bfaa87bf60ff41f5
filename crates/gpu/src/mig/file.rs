//! mig-parted's configuration file, so that layouts people have go on to work.

use formats::migparted::{self, Devices, MigPartedError};
use model::PciId;

use super::Wish;

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Read(#[from] MigPartedError),
    #[error("it has no layout {asked:?}; it has {known}")]
    NoLayout { asked: String, known: String },
    #[error("layout {layout}: {what}")]
    Wrong { layout: String, what: String },
}

/// The wish for each card of a machine, given their PCI ids in NVML's order; `None`: the layout says nothing of it.
pub fn read_file(text: &str, layout: &str, cards: &[PciId]) -> Result<Vec<Option<Wish>>, FileError> {
    let file = migparted::read(text)?;
    let wrong = |what: String| FileError::Wrong { layout: layout.to_owned(), what };
    let Some(entries) = file.configs.get(layout) else {
        let known: Vec<&str> = file.configs.keys().map(String::as_str).collect();
        return Err(FileError::NoLayout { asked: layout.to_owned(), known: known.join(", ") });
    };
    let mut wishes = vec![None; cards.len()];
    for entry in entries {
        let mut ids = Vec::new();
        for id in entry.device_filter.ids() {
            ids.push(pci_id(id).ok_or_else(|| wrong(format!("device-filter {id:?} is no id of the form 0x20B010DE")))?);
        }
        let meant: Vec<u32> = match &entry.devices {
            Devices::Word(all) if all == "all" => (0..u32::try_from(cards.len()).unwrap_or(0)).collect(),
            Devices::Word(other) => return Err(wrong(format!("devices: {other:?} is neither all nor a list"))),
            Devices::List(list) => list.clone(),
        };
        for index in meant {
            let Some((card, wish)) = cards.get(index as usize).zip(wishes.get_mut(index as usize)) else {
                return Err(wrong(format!("there is no GPU {index} here")));
            };
            if !ids.is_empty() && !ids.contains(card) {
                continue;
            }
            if !entry.mig_enabled && !entry.mig_devices.is_empty() {
                return Err(wrong("mig-devices with mig-enabled: false".into()));
            }
            *wish = Some(if entry.mig_enabled { Wish::of(entry.mig_devices.clone()) } else { Wish::off() });
        }
    }
    Ok(wishes)
}

/// "0x20B010DE": device in the high half, vendor in the low, as nvmlPciInfo_t has it.
fn pci_id(text: &str) -> Option<PciId> {
    let number = u32::from_str_radix(text.strip_prefix("0x").or(text.strip_prefix("0X"))?, 16).ok()?;
    Some(PciId { vendor: (number & 0xffff) as u16, device: (number >> 16) as u16 })
}
