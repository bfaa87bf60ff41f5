//! The PCI ID database (`pci.ids`): names of vendors, devices and boards, found in one pass without building a map.
//!
//! Form (its own header says so): a vendor is `vvvv  NAME` at the line's start, a device `\tdddd  NAME`, a board
//! `\t\tssss ssss  NAME`; `#` begins a comment; lines from `C ` on are classes.

/// One card whose names are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub vendor: u16,
    pub device: u16,
    /// Subsystem vendor and device.
    pub subsystem: Option<(u16, u16)>,
}

/// What the database calls it. `None`: it does not have the number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    pub vendor: Option<String>,
    pub device: Option<String>,
    /// The board maker's name.
    pub subvendor: Option<String>,
    /// The board's own name, listed under the device.
    pub board: Option<String>,
}

/// Names for all of `wanted`, in its order. Bytes that are no such database give no names, never an error.
pub fn find(bytes: &[u8], wanted: &[Wanted]) -> Vec<Named> {
    let mut named = vec![Named::default(); wanted.len()];
    // The smaller the set that each line is held against, the faster the pass: vendors first, then their devices.
    let mut vendor = None;
    let mut device = None;
    let mut here = false;
    for line in bytes.split(|byte| *byte == b'\n') {
        match line {
            [b'\t', b'\t', rest @ ..] => {
                if let (Some(vendor), Some(device)) = (vendor, device) {
                    board(rest, vendor, device, wanted, &mut named);
                }
            }
            [b'\t', rest @ ..] => {
                device = None;
                if let (Some(vendor), Some((id, name))) = (vendor.filter(|_| here), entry(rest)) {
                    for (want, named) in wanted.iter().zip(&mut named) {
                        if want.vendor == vendor && want.device == id {
                            device = Some(id);
                            named.device.get_or_insert_with(|| text(name));
                        }
                    }
                }
            }
            // Classes close the list of vendors.
            [b'C', b' ', ..] => break,
            [b'#', ..] | [] => {}
            line => {
                (vendor, device, here) = (None, None, false);
                let Some((id, name)) = entry(line) else { continue };
                vendor = Some(id);
                for (want, named) in wanted.iter().zip(&mut named) {
                    if want.vendor == id {
                        here = true;
                        named.vendor.get_or_insert_with(|| text(name));
                    }
                    if want.subsystem.is_some_and(|(vendor, _)| vendor == id) {
                        named.subvendor.get_or_insert_with(|| text(name));
                    }
                }
            }
        }
    }
    named
}

fn board(line: &[u8], vendor: u16, device: u16, wanted: &[Wanted], named: &mut [Named]) {
    let Some((subvendor, rest)) = number(line) else { return };
    let Some(rest) = rest.strip_prefix(b" ") else { return };
    let Some((subdevice, name)) = entry(rest) else { return };
    for (want, named) in wanted.iter().zip(named) {
        if want.vendor == vendor && want.device == device && want.subsystem == Some((subvendor, subdevice)) {
            named.board.get_or_insert_with(|| text(name));
        }
    }
}

/// `dddd  NAME`.
fn entry(line: &[u8]) -> Option<(u16, &[u8])> {
    let (id, rest) = number(line)?;
    Some((id, rest.strip_prefix(b"  ")?))
}

/// Four hex digits.
fn number(line: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = line.split_at_checked(4)?;
    let mut id = 0;
    for digit in digits {
        id = id << 4 | char::from(*digit).to_digit(16)? as u16;
    }
    Some((id, rest))
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DATABASE: &[u8] = b"# comment\n1043  ASUSTeK Computer Inc.\n\t0675  ISDNLink P-IN100-ST-D\n\
10de  NVIDIA Corporation\n\t0fb8  GP108 High Definition Audio Controller\n\t1d01  GP108 [GeForce GT 1030]\n\
\t\t1043 85f4  Phoenix\n\t\t1458 375b  Other board\n\t1d10  GP108M [GeForce MX150]\n8086  Intel Corporation\n\
\t1d01  Not the same\n\nC 03  Display controller\n\t00  VGA compatible controller\n";

    fn want(vendor: u16, device: u16, subsystem: Option<(u16, u16)>) -> Wanted {
        Wanted { vendor, device, subsystem }
    }

    #[test]
    fn names_a_card_and_its_board() {
        let named = find(DATABASE, &[want(0x10de, 0x1d01, Some((0x1043, 0x85f4)))]);
        assert_eq!(
            named,
            [Named {
                vendor: Some("NVIDIA Corporation".into()),
                device: Some("GP108 [GeForce GT 1030]".into()),
                subvendor: Some("ASUSTeK Computer Inc.".into()),
                board: Some("Phoenix".into()),
            }]
        );
    }

    #[test]
    fn keeps_vendors_apart_and_unknown_ids_nameless() {
        let named = find(
            DATABASE,
            &[want(0x8086, 0x1d01, None), want(0x10de, 0x2330, Some((0x10de, 0x16c1))), want(0xabcd, 1, None)],
        );
        assert_eq!(named[0].device.as_deref(), Some("Not the same"));
        assert_eq!(named[1].device, None);
        assert_eq!(named[1].subvendor.as_deref(), Some("NVIDIA Corporation"));
        assert_eq!(named[1].board, None);
        assert_eq!(named[2], Named::default());
    }

    proptest! {
        #[test]
        fn any_bytes_give_one_answer_each(bytes in proptest::collection::vec(any::<u8>(), 0..600), vendor in any::<u16>()) {
            let wanted = [want(vendor, 1, Some((vendor, 2))), want(0x10de, 0x1d01, None)];
            prop_assert_eq!(find(&bytes, &wanted).len(), 2);
        }

        #[test]
        fn damage_elsewhere_does_not_change_a_name(junk in "[^\n]{0,40}") {
            // A line of junk before the vendor: comments and broken lines are passed over.
            let mut bytes = format!("#{junk}\n").into_bytes();
            bytes.extend_from_slice(DATABASE);
            let named = find(&bytes, &[want(0x10de, 0x1d01, None)]);
            prop_assert_eq!(named[0].device.as_deref(), Some("GP108 [GeForce GT 1030]"));
        }
    }
}
