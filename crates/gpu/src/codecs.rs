//! What a card's video engines decode and encode: as it says itself, or from a static table by its chip. The table is
//! said to be one wherever it is shown: cut cards share a chip's name, so the card's own answer stands above it.

use model::Seen;
use serde::Serialize;

use crate::Card;
use crate::engines::Asked;

/// Video codecs that NVIDIA's engines know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    Mpeg1,
    Mpeg2,
    Mpeg4,
    Vc1,
    H264,
    Hevc,
    Vp8,
    Vp9,
    Av1,
}

impl Codec {
    const ALL: [Codec; 9] = [
        Codec::Mpeg1,
        Codec::Mpeg2,
        Codec::Mpeg4,
        Codec::Vc1,
        Codec::H264,
        Codec::Hevc,
        Codec::Vp8,
        Codec::Vp9,
        Codec::Av1,
    ];

    /// As [`machine::codecs`] writes it: "h264".
    pub fn word(self) -> &'static str {
        match self {
            Codec::Mpeg1 => "mpeg1",
            Codec::Mpeg2 => "mpeg2",
            Codec::Mpeg4 => "mpeg4",
            Codec::Vc1 => "vc1",
            Codec::H264 => "h264",
            Codec::Hevc => "hevc",
            Codec::Vp8 => "vp8",
            Codec::Vp9 => "vp9",
            Codec::Av1 => "av1",
        }
    }

    /// As people write it: "H.264".
    pub fn name(self) -> &'static str {
        match self {
            Codec::Mpeg1 => "MPEG-1",
            Codec::Mpeg2 => "MPEG-2",
            Codec::Mpeg4 => "MPEG-4",
            Codec::Vc1 => "VC-1",
            Codec::H264 => "H.264",
            Codec::Hevc => "HEVC",
            Codec::Vp8 => "VP8",
            Codec::Vp9 => "VP9",
            Codec::Av1 => "AV1",
        }
    }
}

/// One codec that NVDEC decodes, with the bit depths of each chroma format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decodes {
    pub codec: Codec,
    pub depths_420: Vec<u8>,
    pub depths_444: Vec<u8>,
}

/// What a card's video engines can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Codecs {
    /// "GP108".
    pub chip: String,
    /// Encoder engines; 0: the card encodes nothing.
    pub nvenc: u8,
    pub encodes: Vec<Codec>,
    /// Decoder engines.
    pub nvdec: u8,
    pub decodes: Vec<Decodes>,
    /// Where the knowledge is from: [`LIVE`], or begins with "static table", or both for its halves.
    pub source: String,
}

/// The source of what a card said itself.
pub const LIVE: &str = "the card's own answer (NVDEC and NVENC)";

impl Codecs {
    pub fn decodes(&self, codec: Codec) -> Option<&Decodes> {
        self.decodes.iter().find(|row| row.codec == codec)
    }

    /// True where 4:2:0 of this depth is decoded.
    pub fn decodes_420(&self, codec: Codec, depth: u8) -> bool {
        self.decodes(codec).is_some_and(|row| row.depths_420.contains(&depth))
    }

    pub fn decodes_444(&self, codec: Codec, depth: u8) -> bool {
        self.decodes(codec).is_some_and(|row| row.depths_444.contains(&depth))
    }

    pub fn encodes(&self, codec: Codec) -> bool {
        self.nvenc > 0 && self.encodes.contains(&codec)
    }

    /// What two cards both can do: for an application that may land on either.
    pub fn both(&self, other: &Codecs) -> Codecs {
        let common = |a: &[u8], b: &[u8]| a.iter().copied().filter(|depth| b.contains(depth)).collect::<Vec<u8>>();
        let decodes = self.decodes.iter().filter_map(|mine| {
            let theirs = other.decodes(mine.codec)?;
            Some(Decodes {
                codec: mine.codec,
                depths_420: common(&mine.depths_420, &theirs.depths_420),
                depths_444: common(&mine.depths_444, &theirs.depths_444),
            })
        });
        Codecs {
            chip: if self.chip == other.chip { self.chip.clone() } else { format!("{} and {}", self.chip, other.chip) },
            nvenc: self.nvenc.min(other.nvenc),
            encodes: self.encodes.iter().copied().filter(|codec| other.encodes(*codec)).collect(),
            nvdec: self.nvdec.min(other.nvdec),
            decodes: decodes.filter(|row| !row.depths_420.is_empty()).collect(),
            source: if self.source == other.source {
                self.source.clone()
            } else {
                format!("{}; {}", self.source, other.source)
            },
        }
    }

    /// True where any of it is the table's word and not the card's.
    pub fn guessed(&self) -> bool {
        self.source.contains("static table")
    }
}

/// What a card said of itself, with the table's word for the half that it could not be asked; none where neither says all.
/// A card whose NVDEC library is not here is one that could not be asked: nothing was said of the card.
pub fn live(card: &Card, asked: &Asked) -> Option<Codecs> {
    let table = of(card);
    let chip = chip_of(&card.device_name).map_or_else(|| card.short_name().to_owned(), str::to_owned);
    let decodes = asked.decodes.get().map(|caps| {
        let depths = |codec: Codec, chroma: &str| -> Vec<u8> {
            let mine = caps.iter().filter(|cap| cap.codec == codec.word() && cap.chroma == chroma);
            mine.map(|cap| cap.depth).collect()
        };
        let one = |codec| Decodes { codec, depths_420: depths(codec, "420"), depths_444: depths(codec, "444") };
        let all: Vec<Decodes> = Codec::ALL.into_iter().map(one).filter(|row| !row.depths_420.is_empty()).collect();
        (all, caps.iter().map(|cap| cap.engines).max().unwrap_or(0))
    });
    let encodes = match &asked.encodes {
        Seen::Is(caps) => {
            let all = Codec::ALL.into_iter().filter(|codec| caps.iter().any(|cap| cap.codec == codec.word()));
            let engines = caps.iter().filter_map(|cap| cap.engines).max().unwrap_or(1);
            Some((
                all.collect::<Vec<Codec>>(),
                u8::try_from(engines).unwrap_or(u8::MAX).max(u8::from(!caps.is_empty())),
            ))
        }
        Seen::Absent => Some((Vec::new(), 0)),
        Seen::Unreadable(_) => None,
    };
    let said = |half: &str| match &table {
        Some(table) => format!("{LIVE}, {half} by {}", table.source),
        None => LIVE.to_owned(),
    };
    let source = match (&decodes, &encodes) {
        (Some(_), Some(_)) => LIVE.to_owned(),
        (Some(_), None) => said("encoders"),
        (None, Some(_)) => said("decoders"),
        (None, None) => return table,
    };
    let of_table = |table: &Codecs| (table.decodes.clone(), table.nvdec);
    let (decodes, nvdec) = decodes.or_else(|| table.as_ref().map(of_table))?;
    let (encodes, nvenc) = encodes.or_else(|| table.as_ref().map(|table| (table.encodes.clone(), table.nvenc)))?;
    Some(Codecs { chip, nvenc, encodes, nvdec, decodes, source })
}

/// The chips of the table, in its order.
pub fn chips() -> Vec<&'static str> {
    TABLE.iter().flat_map(|row| row.chips.iter().copied()).collect()
}

/// Sets of decoders, by generation of the engine.
#[derive(Clone, Copy)]
enum Dec {
    /// MPEG-1/2/4, VC-1, H.264.
    Old,
    /// And VP8.
    OldVp8,
    /// GM206: and HEVC 8/10, VP9 8.
    Gm206,
    /// HEVC to 12 bits, VP9 to 12, no VP8.
    PascalSmall,
    /// GP106: VP9 8 bits for certain.
    Gp106,
    /// GP104: VP8, VP9 8 bits only.
    Gp104,
    /// HEVC to 12, VP8, VP9 to 12.
    PascalBig,
    /// And HEVC 4:4:4.
    Turing,
    /// And AV1 8/10.
    Ampere,
}

/// Sets of encoders.
#[derive(Clone, Copy)]
enum Enc {
    None,
    H264,
    Hevc,
    Av1,
}

struct Row {
    chips: &'static [&'static str],
    nvenc: u8,
    enc: Enc,
    nvdec: u8,
    dec: Dec,
    source: &'static str,
}

const DUMP: &str = "caps dumps of real cards (rigaya/NVEnc GPUFeatures)";
const NOTES: &str = "Video Codec SDK 13.0 application notes";
const MATRIX: &str = "NVIDIA's video encode and decode support matrix";

const fn row(chips: &'static [&'static str], nvenc: u8, enc: Enc, nvdec: u8, dec: Dec, source: &'static str) -> Row {
    Row { chips, nvenc, enc, nvdec, dec, source }
}

static TABLE: &[Row] = &[
    row(&["GK104", "GK106", "GK107", "GK110", "GK208", "GK210"], 1, Enc::H264, 1, Dec::Old, DUMP),
    row(&["GM107"], 1, Enc::H264, 1, Dec::Old, NOTES),
    row(&["GM108"], 0, Enc::None, 1, Dec::Old, MATRIX),
    row(&["GM200", "GM204"], 2, Enc::Hevc, 1, Dec::OldVp8, DUMP),
    row(&["GM206"], 1, Enc::Hevc, 1, Dec::Gm206, NOTES),
    row(&["GP108"], 0, Enc::None, 1, Dec::PascalSmall, MATRIX),
    row(&["GP107"], 1, Enc::Hevc, 1, Dec::PascalSmall, DUMP),
    row(&["GP106"], 1, Enc::Hevc, 1, Dec::Gp106, DUMP),
    row(&["GP104"], 2, Enc::Hevc, 1, Dec::Gp104, DUMP),
    row(&["GP102"], 2, Enc::Hevc, 1, Dec::PascalBig, MATRIX),
    row(&["GP100"], 3, Enc::Hevc, 1, Dec::PascalBig, MATRIX),
    row(&["GV100"], 3, Enc::Hevc, 1, Dec::PascalBig, NOTES),
    row(&["TU117", "TU116", "TU106"], 1, Enc::Hevc, 1, Dec::Turing, DUMP),
    row(&["TU104", "TU102"], 1, Enc::Hevc, 2, Dec::Turing, DUMP),
    row(&["GA100"], 0, Enc::None, 5, Dec::Turing, NOTES),
    row(&["GA103", "GA104", "GA106", "GA107"], 1, Enc::Hevc, 1, Dec::Ampere, DUMP),
    row(&["GA102"], 1, Enc::Hevc, 2, Dec::Ampere, DUMP),
    row(&["GH100"], 0, Enc::None, 7, Dec::Turing, NOTES),
    row(&["AD106", "AD107"], 1, Enc::Av1, 1, Dec::Ampere, DUMP),
    row(&["AD103", "AD104"], 2, Enc::Av1, 2, Dec::Ampere, DUMP),
    row(&["AD102"], 2, Enc::Av1, 3, Dec::Ampere, DUMP),
    row(&["GB206", "GB207"], 1, Enc::Av1, 1, Dec::Ampere, DUMP),
    row(&["GB203", "GB205"], 2, Enc::Av1, 2, Dec::Ampere, DUMP),
    row(&["GB202"], 3, Enc::Av1, 2, Dec::Ampere, DUMP),
    row(&["GB100", "GB102", "GB110"], 0, Enc::None, 7, Dec::Ampere, MATRIX),
];

/// Cards whose encoder is cut though the chip has one: (what the name holds as a word, source).
static NO_ENCODER: &[&str] = &["MX350", "MX450", "MX550", "MX570", "T500"];

/// The chip's code name out of pci.ids: "GP108" of "GP108 [GeForce GT 1030]" and of "GP108M [GeForce MX150]".
pub fn chip_of(device_name: &str) -> Option<&str> {
    let word = device_name.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
    let base = word.get(..5)?;
    let letters = base.get(..2)?;
    let digits = base.get(2..)?;
    (letters.bytes().all(|b| b.is_ascii_uppercase()) && digits.bytes().all(|b| b.is_ascii_digit())).then_some(base)
}

/// What the static table says of a card; `None` where its chip is not in it.
pub fn of(card: &Card) -> Option<Codecs> {
    by_name(&card.device_name)
}

/// The same, from the name in pci.ids.
pub fn by_name(device_name: &str) -> Option<Codecs> {
    let chip = chip_of(device_name)?;
    let row = TABLE.iter().find(|row| row.chips.contains(&chip))?;
    let cut = device_name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| NO_ENCODER.contains(&word));
    let (nvenc, enc) = if cut { (0, Enc::None) } else { (row.nvenc, row.enc) };
    Some(Codecs {
        chip: chip.to_owned(),
        nvenc,
        encodes: encoders(enc),
        nvdec: row.nvdec,
        decodes: decoders(row.dec),
        source: format!("static table: {}", row.source),
    })
}

fn encoders(set: Enc) -> Vec<Codec> {
    match set {
        Enc::None => Vec::new(),
        Enc::H264 => vec![Codec::H264],
        Enc::Hevc => vec![Codec::H264, Codec::Hevc],
        Enc::Av1 => vec![Codec::H264, Codec::Hevc, Codec::Av1],
    }
}

fn decoders(set: Dec) -> Vec<Decodes> {
    const EIGHT: &[u8] = &[8];
    const TEN: &[u8] = &[8, 10];
    const TWELVE: &[u8] = &[8, 10, 12];
    let plain = |codec| Decodes { codec, depths_420: EIGHT.to_vec(), depths_444: Vec::new() };
    let deep = |codec, depths: &[u8]| Decodes { codec, depths_420: depths.to_vec(), depths_444: Vec::new() };
    let mut all: Vec<Decodes> =
        [Codec::Mpeg1, Codec::Mpeg2, Codec::Mpeg4, Codec::Vc1, Codec::H264].into_iter().map(plain).collect();
    let hevc = match set {
        Dec::Old | Dec::OldVp8 => None,
        Dec::Gm206 => Some(deep(Codec::Hevc, TEN)),
        Dec::PascalSmall | Dec::Gp106 | Dec::Gp104 | Dec::PascalBig => Some(deep(Codec::Hevc, TWELVE)),
        Dec::Turing | Dec::Ampere => {
            Some(Decodes { codec: Codec::Hevc, depths_420: TWELVE.to_vec(), depths_444: TWELVE.to_vec() })
        }
    };
    all.extend(hevc);
    if matches!(set, Dec::OldVp8 | Dec::Gm206 | Dec::Gp104 | Dec::PascalBig | Dec::Turing | Dec::Ampere) {
        all.push(plain(Codec::Vp8));
    }
    match set {
        Dec::Old | Dec::OldVp8 => {}
        Dec::Gm206 | Dec::Gp106 | Dec::Gp104 => all.push(plain(Codec::Vp9)),
        Dec::PascalSmall | Dec::PascalBig | Dec::Turing | Dec::Ampere => all.push(deep(Codec::Vp9, TWELVE)),
    }
    if matches!(set, Dec::Ampere) {
        all.push(deep(Codec::Av1, TEN));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gt_1030_decodes_and_encodes_nothing() {
        let codecs = by_name("GP108 [GeForce GT 1030]").expect("in the table");
        assert_eq!(codecs.nvenc, 0);
        assert!(!codecs.encodes(Codec::H264));
        assert!(codecs.decodes_420(Codec::Hevc, 10));
        assert!(codecs.decodes_420(Codec::H264, 8));
        assert!(!codecs.decodes_420(Codec::H264, 10));
        assert!(codecs.decodes(Codec::Vp8).is_none());
        assert!(codecs.decodes(Codec::Av1).is_none());
        assert!(codecs.source.starts_with("static table"));
    }

    #[test]
    fn data_centre_chips_have_no_encoder_and_ada_has_av1() {
        assert_eq!(by_name("GH100 [H100 SXM5 80GB]").expect("H100").nvenc, 0);
        assert_eq!(by_name("GA100 [A100 SXM4 40GB]").expect("A100").nvenc, 0);
        assert!(by_name("AD102 [GeForce RTX 4090]").expect("4090").encodes(Codec::Av1));
        assert!(!by_name("TU116 [GeForce GTX 1660]").expect("1660").encodes(Codec::Av1));
        assert_eq!(by_name("TU117M [GeForce MX450]").expect("MX450").nvenc, 0);
        assert_eq!(by_name("TU117 [GeForce GTX 1650]").expect("1650").nvenc, 1);
    }

    #[test]
    fn a_chip_is_in_one_row_and_an_unknown_one_in_none() {
        let mut chips: Vec<&str> = TABLE.iter().flat_map(|row| row.chips.iter().copied()).collect();
        let all = chips.len();
        chips.sort_unstable();
        chips.dedup();
        assert_eq!(chips.len(), all);
        assert_eq!(by_name("Device 1d01"), None);
        assert_eq!(by_name(""), None);
        assert_eq!(chip_of("GP108M [GeForce MX150]"), Some("GP108"));
    }

    #[test]
    fn two_cards_can_do_what_both_can() {
        let small = by_name("GP108 [GeForce GT 1030]").expect("GP108");
        let large = by_name("AD102 [GeForce RTX 4090]").expect("AD102");
        let both = small.both(&large);
        assert_eq!(both.nvenc, 0);
        assert!(!both.encodes(Codec::H264));
        assert!(both.decodes_420(Codec::Vp9, 12));
        assert!(both.decodes(Codec::Av1).is_none());
    }

    fn card(name: &str) -> Card {
        let mut card = one_card();
        card.device_name = name.to_owned();
        card
    }

    fn one_card() -> Card {
        let mut machine = machine::Memory::new("test");
        for (name, text) in [
            ("uevent", "DRIVER=nvidia\nPCI_CLASS=30000\nPCI_ID=10DE:1D01\nPCI_SLOT_NAME=0000:01:00.0\n"),
            ("vendor", "0x10de\n"),
            ("device", "0x1d01\n"),
            ("class", "0x030000\n"),
        ] {
            machine.insert_file(&format!("/sys/bus/pci/devices/0000:01:00.0/{name}"), text.as_bytes());
        }
        crate::observe(&machine).cards.pop().expect("one card")
    }

    fn cap(codec: &str, chroma: &str, depth: u8) -> machine::codecs::DecodeCap {
        machine::codecs::DecodeCap {
            codec: codec.into(),
            chroma: chroma.into(),
            depth,
            engines: 3,
            max_width: 4096,
            max_height: 4096,
            min_width: 48,
            min_height: 16,
            max_macroblocks: 65536,
        }
    }

    #[test]
    fn the_card_s_own_answer_stands_above_the_table() {
        // a cut card: the table says that it encodes, itself says no
        let decodes =
            Seen::Is(vec![cap("h264", "420", 8), cap("hevc", "420", 8), cap("hevc", "420", 10), cap("hevc", "444", 8)]);
        let asked = Asked { decodes, encodes: Seen::Absent };
        let codecs = live(&card("AD102 [GeForce RTX 4090]"), &asked).expect("it said so");
        assert_eq!((codecs.nvenc, codecs.nvdec, codecs.source.as_str()), (0, 3, LIVE));
        assert!(!codecs.guessed() && !codecs.encodes(Codec::H264) && codecs.decodes(Codec::Av1).is_none());
        assert!(codecs.decodes_420(Codec::Hevc, 10) && codecs.decodes_444(Codec::Hevc, 8));
    }

    #[test]
    fn the_half_that_was_not_said_is_the_table_s_and_is_called_so() {
        let reason = || Seen::Unreadable(model::Reason::PermissionDenied);
        let asked = Asked { decodes: Seen::Is(vec![cap("h264", "420", 8)]), encodes: reason() };
        let half = live(&card("TU116 [GeForce GTX 1660]"), &asked).expect("with the table");
        assert!(half.guessed() && half.encodes(Codec::Hevc) && half.decodes(Codec::Vp9).is_none(), "{half:?}");
        assert!(half.source.contains("encoders by static table"), "{}", half.source);
        let none = Asked { decodes: Seen::Absent, encodes: reason() };
        assert_eq!(live(&card("TU116 [GeForce GTX 1660]"), &none), by_name("TU116"), "nothing was said");
        assert_eq!(live(&card("Device 9999"), &none), None);
        assert_eq!(live(&card("Device 9999"), &asked), None, "half an answer and no table is no answer");
    }
}
