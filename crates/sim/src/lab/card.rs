//! The fake card: configuration space and a few registers of a GeForce GT 1030 and of its audio function. It answers
//! what a kernel asks before a driver drives the card; there is no engine behind it.

use super::wire::{BarAccess, ConfigAccess, Message};

const COMMAND: usize = 0x04;
const BAR0: usize = 0x10;
/// Registers kept per BAR; what lies above reads as 0, so that a guest cannot make the lab's memory grow.
const REGISTERS: usize = 4096;
/// What an access that nobody answers reads as on PCI.
const NOBODY: u64 = u64::MAX;

/// A BAR: its place among the six, its size in bytes (a power of two, 16 at least) and its kind.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    pub index: usize,
    pub size: u32,
    pub io: bool,
    pub prefetchable: bool,
}

/// What a function is.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    pub vendor: u16,
    pub device: u16,
    /// Base class, subclass, programming interface, as in 0x030000.
    pub class: u32,
    pub subsystem: (u16, u16),
    pub revision: u8,
    /// 1 for INTA.
    pub pin: u8,
    pub bars: &'static [Bar],
    /// What offset 0 of BAR 0 reads as, written or not: on NVIDIA's cards the chip's number.
    pub chip: Option<u32>,
    /// Bytes of BAR 0 in which a write of ones clears what the card has set. It sets nothing, so they read as 0.
    pub cleared: &'static [usize],
}

const fn memory(index: usize, size: u32, prefetchable: bool) -> Bar {
    Bar { index, size, io: false, prefetchable }
}

/// A GT 1030 (GP108). QEMU's proxy knows 32-bit BARs only, so its large BARs are not the 64-bit ones of the real card.
pub const GT1030: Model = Model {
    vendor: 0x10de,
    device: 0x1d01,
    class: 0x03_00_00,
    subsystem: (0x1043, 0x85f4),
    revision: 0xa1,
    pin: 1,
    bars: &[
        memory(0, 16 << 20, false),
        memory(1, 256 << 20, true),
        memory(3, 32 << 20, true),
        Bar { index: 5, size: 128, io: true, prefetchable: false },
    ],
    chip: Some(0x1380_00a1),
    cleared: &[],
};

/// Its audio function.
pub const GT1030_AUDIO: Model = Model {
    vendor: 0x10de,
    device: 0x0fb8,
    class: 0x04_03_00,
    subsystem: (0x1043, 0x85f4),
    revision: 0xa1,
    pin: 2,
    bars: &[memory(0, 16 << 10, false)],
    chip: None,
    // STATESTS, CORBSTS and RIRBSTS of Intel's High Definition Audio specification (3.3.9, 3.3.23, 3.3.30). A driver
    // clears STATESTS by ones and then reads there which codecs are present: kept, they would be eight that never
    // answer, and the guest would wait for each with its interrupts off.
    cleared: &[0x0e, 0x0f, 0x4d, 0x5d],
};

/// One function of the card as the guest finds it.
pub struct Function {
    model: Model,
    config: [u8; 256],
    /// Which bits of each byte the guest may change.
    writable: [u8; 256],
    registers: Vec<(Bar, Vec<u8>)>,
}

impl Function {
    pub fn new(model: Model) -> Function {
        let mut function = Function { model, config: [0; 256], writable: [0; 256], registers: Vec::new() };
        function.reset();
        function
    }

    /// As after power-on.
    pub fn reset(&mut self) {
        let model = self.model;
        self.config = [0; 256];
        self.writable = [0; 256];
        self.put(0x00, &model.vendor.to_le_bytes());
        self.put(0x02, &model.device.to_le_bytes());
        let [interface, sub, base, _] = model.class.to_le_bytes();
        self.put(0x08, &[model.revision, interface, sub, base]);
        // A card of two functions: without the top bit nobody would look for the second.
        self.put(0x0e, &[0x80]);
        self.put(0x2c, &model.subsystem.0.to_le_bytes());
        self.put(0x2e, &model.subsystem.1.to_le_bytes());
        self.put(0x3d, &[model.pin]);
        // I/O, memory, bus master, parity, SERR, INTx off. QEMU keeps its own copy of this register.
        self.allow(COMMAND, &0x0547_u16.to_le_bytes());
        // Cache line size and interrupt line are scratch bytes of the firmware.
        self.allow(0x0c, &[0xff]);
        self.allow(0x3c, &[0xff]);
        self.registers.clear();
        for bar in model.bars {
            let at = BAR0 + 4 * bar.index;
            let kind = if bar.io { 0x1 } else { u32::from(bar.prefetchable) << 3 };
            self.put(at, &kind.to_le_bytes());
            // Sizing: all ones are written, and the bits below the size stay what they are.
            self.allow(at, &(!(bar.size - 1)).to_le_bytes());
            let kept = REGISTERS.min(bar.size as usize);
            self.registers.push((*bar, vec![0; kept]));
        }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.config.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable.iter_mut().skip(at).zip(mask).for_each(|(to, from)| *to = *from);
    }

    /// The value to answer with.
    pub fn handle(&mut self, message: &Message) -> u64 {
        match message {
            Message::ConfigRead(access) => self.config_read(*access).into(),
            Message::ConfigWrite(access) => {
                self.config_write(*access);
                0
            }
            Message::BarRead(access) => self.bar_read(*access),
            Message::BarWrite(access) => {
                self.bar_write(*access);
                0
            }
            Message::Reset => {
                self.reset();
                0
            }
            Message::SyncMemory | Message::SetInterrupt => 0,
        }
    }

    fn config_read(&self, access: ConfigAccess) -> u32 {
        let bytes = self.config.iter().skip(access.offset.into()).take(access.width.into());
        bytes.rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
    }

    fn config_write(&mut self, access: ConfigAccess) {
        let places = self.config.iter_mut().zip(&self.writable).skip(access.offset.into());
        for ((place, mask), byte) in places.zip(access.value.to_le_bytes()).take(access.width.into()) {
            *place = *place & !mask | byte & mask;
        }
    }

    /// The BAR at an address of the bus, and the offset in it.
    fn find(&self, access: BarAccess) -> Option<(usize, usize)> {
        let on = if access.memory { 0x2 } else { 0x1 };
        if self.config.get(COMMAND).is_none_or(|command| command & on == 0) {
            return None;
        }
        self.registers.iter().enumerate().find_map(|(n, (bar, _))| {
            let place = self.config_read(ConfigAccess { offset: (BAR0 + 4 * bar.index) as u8, width: 4, value: 0 });
            let base = u64::from(place & !(bar.size - 1));
            let offset = access.address.checked_sub(base)?;
            (bar.io != access.memory && offset < u64::from(bar.size)).then_some((n, offset as usize))
        })
    }

    fn bar_read(&self, access: BarAccess) -> u64 {
        let Some((number, offset)) = self.find(access) else { return NOBODY };
        let Some((bar, registers)) = self.registers.get(number) else { return NOBODY };
        if let (0, 0, Some(chip)) = (bar.index, offset, self.model.chip) {
            return chip.into();
        }
        let bytes = registers.iter().skip(offset).take(access.width.into());
        bytes.rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn bar_write(&mut self, access: BarAccess) {
        let Some((number, offset)) = self.find(access) else { return };
        let Some((bar, registers)) = self.registers.get_mut(number) else { return };
        let cleared = if bar.index == 0 { self.model.cleared } else { &[] };
        let places = registers.iter_mut().enumerate().skip(offset).take(access.width.into());
        let places = places.zip(access.value.to_le_bytes()).filter(|((at, _), _)| !cleared.contains(at));
        places.for_each(|((_, place), byte)| *place = byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(function: &Function, offset: u8, width: u8) -> u32 {
        function.config_read(ConfigAccess { offset, width, value: 0 })
    }

    fn write(function: &mut Function, offset: u8, width: u8, value: u32) {
        function.config_write(ConfigAccess { offset, width, value });
    }

    #[test]
    fn identity_and_class_stand_where_pci_wants_them() {
        let gpu = Function::new(GT1030);
        assert_eq!(read(&gpu, 0x00, 4), 0x1d01_10de);
        assert_eq!(read(&gpu, 0x08, 4), 0x0300_00a1);
        assert_eq!(read(&gpu, 0x0e, 1), 0x80, "multifunction, header type 0");
        assert_eq!(read(&gpu, 0x2c, 4), 0x85f4_1043);
        let audio = Function::new(GT1030_AUDIO);
        assert_eq!(read(&audio, 0x0a, 2), 0x0403);
        assert_eq!(read(&audio, 0x02, 2), 0x0fb8);
    }

    #[test]
    fn bars_are_sized_by_writing_ones() {
        let mut gpu = Function::new(GT1030);
        // (offset, what all ones read back as, the size that QEMU and the kernel make of it)
        for (offset, back, size) in [
            (0x10, 0xff00_0000, 16 << 20),
            (0x14, 0xf000_0008, 256 << 20),
            (0x1c, 0xfe00_0008, 32 << 20),
            (0x24, 0xffff_ff81, 128),
        ] {
            write(&mut gpu, offset, 4, u32::MAX);
            assert_eq!(read(&gpu, offset, 4), back, "{offset:#x}");
            assert_eq!((!(back & 0xffff_fff0)).wrapping_add(1), size, "{offset:#x}");
        }
        for offset in [0x18, 0x20, 0x28, 0x30] {
            write(&mut gpu, offset, 4, u32::MAX);
            assert_eq!(read(&gpu, offset, 4), 0, "{offset:#x}: no BAR, no seventh region, no ROM");
        }
    }

    #[test]
    fn read_only_bits_stay() {
        let mut gpu = Function::new(GT1030);
        let before: Vec<u32> = [0x00, 0x08, 0x2c].iter().map(|at| read(&gpu, *at, 4)).collect();
        for at in (0..=252).step_by(4) {
            write(&mut gpu, at, 4, u32::MAX);
        }
        let after: Vec<u32> = [0x00, 0x08, 0x2c].iter().map(|at| read(&gpu, *at, 4)).collect();
        assert_eq!(before, after);
        assert_eq!(read(&gpu, 0x0e, 1), 0x80);
        assert_eq!(read(&gpu, 0x04, 2), 0x0547);
        assert_eq!(read(&gpu, 0x3d, 1), 1, "the pin is wired");
        write(&mut gpu, 0x3c, 1, 11);
        assert_eq!(read(&gpu, 0x3c, 1), 11);
        gpu.reset();
        assert_eq!(read(&gpu, 0x04, 2), 0);
    }

    #[test]
    fn no_codec_appears_by_clearing_its_state() {
        let mut audio = Function::new(GT1030_AUDIO);
        let at = |offset: u64, width, value| BarAccess { address: 0xfd00_0000 + offset, width, value, memory: true };
        write(&mut audio, 0x10, 4, 0xfd00_0000);
        write(&mut audio, 0x04, 2, 0x2);
        audio.bar_write(at(0x0e, 2, 0xff));
        audio.bar_write(at(0x0c, 4, 0xffff_0001));
        assert_eq!(audio.bar_read(at(0x0e, 2, 0)), 0, "STATESTS");
        assert_eq!(audio.bar_read(at(0x0c, 2, 0)), 1, "WAKEEN beside it is kept");
    }

    #[test]
    fn registers_answer_where_the_bar_was_put() {
        let mut gpu = Function::new(GT1030);
        let at = |address, value| BarAccess { address, width: 4, value, memory: true };
        write(&mut gpu, 0x10, 4, 0xfd00_0000);
        assert_eq!(gpu.bar_read(at(0xfd00_0000, 0)), NOBODY, "memory space is still off");
        write(&mut gpu, 0x04, 2, 0x2);
        assert_eq!(gpu.bar_read(at(0xfd00_0000, 0)), 0x1380_00a1);
        gpu.bar_write(at(0xfd00_0008, 0xabcd));
        assert_eq!(gpu.bar_read(at(0xfd00_0008, 0)), 0xabcd);
        gpu.bar_write(at(0xfd80_0000, 5));
        assert_eq!(gpu.bar_read(at(0xfd80_0000, 0)), 0, "nothing is kept above the registers");
        assert_eq!(gpu.bar_read(at(u64::MAX, 0)), NOBODY);
        assert_eq!(gpu.bar_read(BarAccess { memory: false, ..at(0xfd00_0000, 0) }), NOBODY);
    }
}
