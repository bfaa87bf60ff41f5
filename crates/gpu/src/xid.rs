//! What the numbers of Xid messages mean: a row each, in our words.
//!
//! Source: NVIDIA's "XID Errors" and its catalogue of Xid events for Ampere and newer GPUs (GPU Deployment and Management
//! documentation). Which of them are a program's own fault follows the catalogue's immediate action ("restart the app").

use serde::Serialize;

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A program did it, or suffers it: the GPU goes on.
    Program,
    /// Told for the record.
    Note,
    /// The GPU, its link or its firmware: a reset, a reboot, or a look at the hardware.
    Hardware,
}

/// One number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Xid {
    pub number: u64,
    pub class: Class,
    pub says: &'static str,
    pub action: &'static str,
}

const RESET: &str = "stop what uses it and reset the GPU (nvidia-smi --gpu-reset, or a reboot)";
const PROGRAM: &str = "look at the program; the GPU is well";
const LINK: &str = "reset the GPU; if it comes back, the link or its switch";

use Class::{Hardware, Note, Program};

#[rustfmt::skip]
const XIDS: &[Xid] = &[
    Xid { number: 8, class: Program, says: "the GPU stopped working on a program's commands", action: PROGRAM },
    Xid { number: 13, class: Program, says: "a program's kernel failed in the graphics or compute engine, most often by an index out of bounds", action: PROGRAM },
    Xid { number: 31, class: Program, says: "a program touched memory that is not its own", action: PROGRAM },
    Xid { number: 32, class: Program, says: "a program's commands reached the GPU broken", action: "look at the program, then at the PCIe link" },
    Xid { number: 38, class: Hardware, says: "the driver's firmware failed", action: RESET },
    Xid { number: 43, class: Program, says: "a program's work was stopped after a fault of its own", action: PROGRAM },
    Xid { number: 45, class: Note, says: "a program's work was cleaned up: it was stopped, or another Xid came before", action: "look at the Xid before it" },
    Xid { number: 46, class: Hardware, says: "the GPU stopped processing", action: RESET },
    Xid { number: 48, class: Hardware, says: "memory lost two bits, which ECC cannot correct", action: RESET },
    Xid { number: 61, class: Hardware, says: "the GPU's own controller stopped at a breakpoint", action: RESET },
    Xid { number: 62, class: Hardware, says: "the GPU's own controller halted", action: RESET },
    Xid { number: 63, class: Note, says: "a row of memory will be remapped (a page retired)", action: "reset the GPU when convenient, so that it takes effect" },
    Xid { number: 64, class: Hardware, says: "a row of memory could not be remapped (a page not retired)", action: "reset the GPU; if it comes back, have it replaced" },
    Xid { number: 68, class: Program, says: "the video decoder failed on a stream", action: PROGRAM },
    Xid { number: 69, class: Program, says: "a program used the graphics engine wrongly", action: PROGRAM },
    Xid { number: 74, class: Hardware, says: "an NVLink failed", action: LINK },
    Xid { number: 79, class: Hardware, says: "the GPU has fallen off the bus", action: "reboot; then power, riser, heat" },
    Xid { number: 92, class: Note, says: "many single-bit errors, which ECC corrected", action: "watch it; replace the GPU if they go on" },
    Xid { number: 94, class: Program, says: "an uncorrectable memory error stayed within one program", action: "start that program again; reset the GPU when convenient" },
    Xid { number: 95, class: Hardware, says: "an uncorrectable memory error reached more than one program", action: RESET },
    Xid { number: 109, class: Hardware, says: "switching between programs took too long", action: RESET },
    Xid { number: 110, class: Hardware, says: "a security fault in the GPU", action: RESET },
    Xid { number: 119, class: Hardware, says: "the GPU's system processor (GSP) did not answer the driver", action: RESET },
    Xid { number: 120, class: Hardware, says: "the GPU's system processor (GSP) failed", action: RESET },
    Xid { number: 121, class: Note, says: "the link between CPU and GPU (C2C) corrected an error", action: "watch it" },
    Xid { number: 136, class: Hardware, says: "an NVLink could not be trained", action: LINK },
    Xid { number: 137, class: Program, says: "an NVLink access of a program failed", action: PROGRAM },
    Xid { number: 140, class: Hardware, says: "memory errors that ECC could not correct", action: RESET },
    Xid { number: 143, class: Hardware, says: "the GPU could not be initialised", action: "reboot; then the hardware" },
    Xid { number: 144, class: Hardware, says: "an NVLink failed (SAW)", action: LINK },
    Xid { number: 145, class: Hardware, says: "an NVLink failed (RLW)", action: LINK },
    Xid { number: 146, class: Hardware, says: "an NVLink failed (TLW)", action: LINK },
    Xid { number: 147, class: Hardware, says: "an NVLink failed (TREX)", action: LINK },
    Xid { number: 148, class: Hardware, says: "an NVLink failed (NVLPW)", action: LINK },
    Xid { number: 149, class: Hardware, says: "an NVLink failed (NETIR)", action: LINK },
    Xid { number: 150, class: Hardware, says: "an NVLink failed (MSE)", action: LINK },
    Xid { number: 151, class: Hardware, says: "a key of confidential computing could not be changed", action: RESET },
    Xid { number: 154, class: Note, says: "what brings the GPU back has changed", action: "thruway gpus -v shows it under \"recovery\"" },
    Xid { number: 155, class: Hardware, says: "an NVLink was taken down", action: LINK },
    Xid { number: 156, class: Note, says: "a part of the GPU was retired", action: "reset the GPU when convenient" },
    Xid { number: 157, class: Hardware, says: "a part of the GPU could not be retired", action: "have it replaced" },
    Xid { number: 158, class: Hardware, says: "the GPU did not answer within its time", action: RESET },
    Xid { number: 160, class: Note, says: "a channel of memory will be retired", action: "reset the GPU when convenient" },
    Xid { number: 161, class: Hardware, says: "a channel of memory could not be retired", action: "have it replaced" },
];

/// What is known of a number.
pub fn meaning(number: u64) -> Option<&'static Xid> {
    XIDS.iter().find(|xid| xid.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_and_each_says_something() {
        assert!(XIDS.windows(2).all(|pair| pair[0].number < pair[1].number));
        assert!(XIDS.iter().all(|xid| !xid.says.is_empty() && !xid.says.ends_with('.') && !xid.action.is_empty()));
        assert_eq!(meaning(79).map(|xid| xid.class), Some(Hardware));
        assert_eq!(meaning(13).map(|xid| xid.class), Some(Program));
        assert_eq!(meaning(999), None);
    }
}
