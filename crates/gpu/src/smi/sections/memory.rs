//! Memory, and its errors.

use machine::nvml::{NvmlCounts, NvmlGpu, NvmlPlaces};
use model::Seen;

use super::super::tree::{Item, group, leaf};
use super::super::{enabled, na, of, unit, yes};
use super::{memory_of, none};

pub(super) fn use_of(gpu: &NvmlGpu, branch: u32) -> Vec<Item> {
    let reserved = (branch >= 500).then_some(&gpu.memory_reserved);
    let mut items = vec![
        group(
            "FB Memory Usage",
            "fb_memory_usage",
            memory_of(&gpu.memory_total, reserved, &gpu.memory_used, &gpu.memory_free),
        ),
        group(
            "BAR1 Memory Usage",
            "bar1_memory_usage",
            memory_of(&gpu.bar1_total, None, &gpu.bar1_used, &gpu.bar1_free),
        ),
    ];
    if branch >= 530 {
        let board = &gpu.board;
        items.push(group(
            "Conf Compute Protected Memory Usage",
            "cc_protected_memory_usage",
            memory_of(
                &of(board, |b| &b.protected_total),
                None,
                &of(board, |b| &b.protected_used),
                &of(board, |b| &b.protected_free),
            ),
        ));
    }
    items
}

pub(super) fn errors(gpu: &NvmlGpu, branch: u32) -> Vec<Item> {
    let mut items = Vec::new();
    if branch >= 570 {
        items.push(group(
            "DRAM Encryption Mode",
            "dram_encryption_mode",
            vec![
                leaf("Current", "current_dram_encryption", none()),
                leaf("Pending", "pending_dram_encryption", none()),
            ],
        ));
    }
    items.push(group(
        if branch >= 500 { "ECC Mode" } else { "Ecc Mode" },
        "ecc_mode",
        vec![
            leaf("Current", "current_ecc", na(&enabled(&gpu.ecc_enabled))),
            leaf("Pending", "pending_ecc", na(&enabled(&of(&gpu.health, |h| &h.ecc_pending)))),
        ],
    ));
    items.push(counts(gpu, branch));
    let health = &gpu.health;
    let retired = |count: Seen<u32>| {
        vec![
            leaf("", "retired_count", na(&count)),
            leaf("", "retired_pagelist", if count.is_absent() { none() } else { String::new() }),
        ]
    };
    let (single, double) = (of(health, |h| &h.retired_single), of(health, |h| &h.retired_double));
    let pending = na(&yes(&of(health, |h| &h.retired_pending)));
    items.push(group(
        "Retired Pages",
        "retired_pages",
        vec![
            leaf("Single Bit ECC", "", na(&single)),
            leaf("Double Bit ECC", "", na(&double)),
            leaf("Pending Page Blacklist", "", pending.clone()),
            group("", "multiple_single_bit_retirement", retired(single)),
            group("", "double_bit_retirement", retired(double)),
            leaf("", "pending_blacklist", pending.clone()),
            leaf("", "pending_retirement", pending),
        ],
    ));
    items.push(remapped(gpu, branch));
    items
}

/// Cards since Ampere tell SRAM and DRAM, older ones each place.
fn counts(gpu: &NvmlGpu, branch: u32) -> Item {
    let blank = (NvmlCounts::default(), NvmlCounts::default());
    let (volatile, aggregate) =
        gpu.errors.get().map_or((&blank.0, &blank.1), |errors| (&errors.volatile, &errors.aggregate));
    let old = matches!(gpu.architecture.get().map(String::as_str), Some("Kepler" | "Maxwell" | "Pascal" | "Volta"));
    if old {
        let total = |seen: Seen<u64>| na(&seen);
        let health = &gpu.health;
        return group(
            "ECC Errors",
            "ecc_errors",
            vec![
                group(
                    "Volatile",
                    "volatile",
                    vec![
                        places(
                            "Single Bit            ",
                            "single_bit",
                            &volatile.corrected,
                            total(of(health, |h| &h.corrected_volatile)),
                        ),
                        places(
                            "Double Bit            ",
                            "double_bit",
                            &volatile.uncorrected,
                            total(gpu.ecc_uncorrected_volatile.clone()),
                        ),
                    ],
                ),
                group(
                    "Aggregate",
                    "aggregate",
                    vec![
                        places(
                            "Single Bit            ",
                            "single_bit",
                            &aggregate.corrected,
                            total(of(health, |h| &h.corrected_aggregate)),
                        ),
                        places(
                            "Double Bit            ",
                            "double_bit",
                            &aggregate.uncorrected,
                            total(of(health, |h| &h.uncorrected_aggregate)),
                        ),
                    ],
                ),
            ],
        );
    }
    let parts = |counts: &NvmlCounts| {
        if branch < 530 {
            return vec![
                leaf("SRAM Correctable", "sram_correctable", na(&counts.corrected.sram)),
                leaf("SRAM Uncorrectable", "sram_uncorrectable", na(&counts.uncorrected.sram)),
                leaf("DRAM Correctable", "dram_correctable", na(&counts.dram_corrected)),
                leaf("DRAM Uncorrectable", "dram_uncorrectable", na(&counts.dram_uncorrected)),
            ];
        }
        vec![
            leaf("SRAM Correctable", "sram_correctable", na(&counts.sram_corrected)),
            leaf("SRAM Uncorrectable Parity", "sram_uncorrectable_parity", na(&counts.sram_uncorrected_parity)),
            leaf("SRAM Uncorrectable SEC-DED", "sram_uncorrectable_secded", na(&counts.sram_uncorrected_secded)),
            leaf("DRAM Correctable", "dram_correctable", na(&counts.dram_corrected)),
            leaf("DRAM Uncorrectable", "dram_uncorrectable", na(&counts.dram_uncorrected)),
        ]
    };
    let mut ever = parts(aggregate);
    let mut items = vec![group("Volatile", "volatile", parts(volatile))];
    let errors = &gpu.errors;
    if branch >= 530 {
        ever.push(leaf(
            "SRAM Threshold Exceeded",
            "sram_threshold_exceeded",
            na(&yes(&of(errors, |e| &e.sram_threshold_exceeded))),
        ));
    }
    items.push(group("Aggregate", "aggregate", ever));
    if branch >= 530 {
        items.push(group(
            "Aggregate Uncorrectable SRAM Sources",
            "aggregate_uncorrectable_sram_sources",
            vec![
                leaf("SRAM L2", "sram_l2", na(&of(errors, |e| &e.sram_l2))),
                leaf("SRAM SM", "sram_sm", na(&of(errors, |e| &e.sram_sm))),
                leaf("SRAM Microcontroller", "sram_microcontroller", na(&of(errors, |e| &e.sram_microcontroller))),
                leaf("SRAM PCIE", "sram_pcie", na(&of(errors, |e| &e.sram_pcie))),
                leaf("SRAM Other", "sram_other", na(&of(errors, |e| &e.sram_other))),
            ],
        ));
    }
    if branch >= 580 {
        let flag = |seen: Seen<bool>| na(&yes(&seen));
        items.push(leaf(
            "Channel Repair Pending",
            "channel_repair_pending",
            flag(of(errors, |e| &e.channel_repair_pending)),
        ));
        items.push(leaf("TPC Repair Pending", "tpc_repair_pending", flag(of(errors, |e| &e.tpc_repair_pending))));
        items.push(leaf("Unrepairable Memory", "unrepairable_memory", flag(of(errors, |e| &e.unrepairable_memory))));
    }
    group("ECC Errors", "ecc_errors", items)
}

fn places(text: &'static str, xml: &'static str, at: &NvmlPlaces, total: String) -> Item {
    group(
        text,
        xml,
        vec![
            leaf("Device Memory", "device_memory", na(&at.device_memory)),
            leaf("Register File", "register_file", na(&at.registers)),
            leaf("L1 Cache", "l1_cache", na(&at.l1)),
            leaf("L2 Cache", "l2_cache", na(&at.l2)),
            leaf("Texture Memory", "texture_memory", na(&at.texture)),
            leaf("Texture Shared", "texture_shm", none()),
            leaf("CBU", "cbu", na(&at.cbu)),
            leaf("Total", "total", total),
        ],
    )
}

fn remapped(gpu: &NvmlGpu, branch: u32) -> Item {
    let health = &gpu.health;
    let rows = of(health, |h| &h.remapped_corrected);
    if rows.is_absent() {
        return leaf("Remapped Rows", "remapped_rows", none());
    }
    let errors = &gpu.errors;
    let mut items = vec![leaf("Correctable Error", "remapped_row_corr", na(&rows))];
    if branch >= 580 {
        let inactive = of(errors, |e| &e.remapped_corrected_inactive);
        items.push(leaf("Inactive Correctable Error", "remapped_row_corr_inactive", na(&inactive)));
    }
    items.push(leaf("Uncorrectable Error", "remapped_row_unc", na(&of(health, |h| &h.remapped_uncorrected))));
    if branch >= 580 {
        let inactive = of(errors, |e| &e.remapped_uncorrected_inactive);
        items.push(leaf("Inactive Uncorrectable Error", "remapped_row_unc_inactive", na(&inactive)));
    }
    items.push(leaf("Pending", "remapped_row_pending", na(&yes(&of(health, |h| &h.remapped_pending)))));
    items.push(leaf(
        "Remapping Failure Occurred",
        "remapped_row_failure",
        na(&yes(&of(health, |h| &h.remapped_failed))),
    ));
    let banks = of(errors, |e| &e.histogram);
    let bank = |n: usize| unit(&banks.as_ref().and_then(|banks| banks.get(n).copied().into()), "bank(s)");
    items.push(group(
        "Bank Remap Availability Histogram",
        "row_remapper_histogram",
        vec![
            leaf("Max", "row_remapper_histogram_max", bank(0)),
            leaf("High", "row_remapper_histogram_high", bank(1)),
            leaf("Partial", "row_remapper_histogram_partial", bank(2)),
            leaf("Low", "row_remapper_histogram_low", bank(3)),
            leaf("None", "row_remapper_histogram_none", bank(4)),
        ],
    ));
    group("Remapped Rows", "remapped_rows", items)
}
