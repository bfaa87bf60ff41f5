//! What is shown, and what keys do to it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use model::Bdf;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::Options;
use super::rows::{self, Row};
use crate::{CardNow, Sample};

/// So many looks back go the plots.
pub(super) const KEPT: usize = 240;

/// All that the picture is made of.
pub struct View {
    pub(super) name: String,
    pub(super) every: Duration,
    pub(super) colour: bool,
    pub(super) unicode: bool,
    users: HashMap<u32, String>,
    wanted: Option<Bdf>,
    pub(super) sample: Option<Sample>,
    /// By NVML's index.
    pub(super) history: BTreeMap<u32, History>,
    pub(super) rows: Vec<Row>,
    pub(super) sort: Sort,
    pub(super) reversed: bool,
    /// The card that is shown alone, by NVML's index.
    pub(super) only: Option<u32>,
    pub(super) paused: bool,
    pub(super) help: bool,
    /// The first process that is shown.
    pub(super) from: usize,
    /// How many processes fitted when it was drawn last.
    pub(super) fits: usize,
}

/// Per cent, the newest last. None: the card did not tell.
#[derive(Default)]
pub(super) struct History {
    pub(super) sm: VecDeque<Option<u32>>,
    pub(super) memory: VecDeque<Option<u32>>,
    pub(super) encoder: VecDeque<Option<u32>>,
    pub(super) decoder: VecDeque<Option<u32>>,
}

impl History {
    fn take(&mut self, card: &CardNow) {
        let push = |line: &mut VecDeque<Option<u32>>, value: Option<u32>| {
            if line.len() >= KEPT {
                line.pop_front();
            }
            line.push_back(value);
        };
        push(&mut self.sm, card.gpu.utilization_gpu.get().copied());
        push(&mut self.memory, rows::share(card));
        push(&mut self.encoder, card.gpu.utilization_encoder.get().copied());
        push(&mut self.decoder, card.gpu.utilization_decoder.get().copied());
    }
}

/// By what the processes are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Memory,
    Sm,
    Encoder,
    Decoder,
    Whose,
    Pid,
}

impl Sort {
    pub(super) const ALL: [Sort; 6] = [Sort::Memory, Sort::Sm, Sort::Encoder, Sort::Decoder, Sort::Whose, Sort::Pid];

    pub(super) fn name(self) -> &'static str {
        match self {
            Sort::Memory => "memory",
            Sort::Sm => "SM",
            Sort::Encoder => "encoder",
            Sort::Decoder => "decoder",
            Sort::Whose => "whose",
            Sort::Pid => "PID",
        }
    }
}

/// A key, as far as it means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Escape,
    Suspend,
    Interrupt,
    Other,
}

impl Key {
    pub fn of(event: &KeyEvent) -> Key {
        let control = event.modifiers.contains(KeyModifiers::CONTROL);
        match event.code {
            KeyCode::Char('c') if control => Key::Interrupt,
            KeyCode::Char('z') if control => Key::Suspend,
            KeyCode::Char(_) if control => Key::Other,
            KeyCode::Char(letter) => Key::Char(letter),
            KeyCode::Up => Key::Up,
            KeyCode::Down => Key::Down,
            KeyCode::PageUp => Key::PageUp,
            KeyCode::PageDown => Key::PageDown,
            KeyCode::Home => Key::Home,
            KeyCode::End => Key::End,
            KeyCode::Esc => Key::Escape,
            _ => Key::Other,
        }
    }
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Nothing,
    Draw,
    Suspend,
    Quit,
}

impl View {
    pub fn new(options: &Options, users: HashMap<u32, String>) -> View {
        View {
            name: options.name.clone(),
            every: options.every,
            colour: options.colour,
            unicode: options.unicode,
            users,
            wanted: options.card,
            sample: None,
            history: BTreeMap::new(),
            rows: Vec::new(),
            sort: Sort::Memory,
            reversed: false,
            only: None,
            paused: false,
            help: false,
            from: 0,
            fits: 0,
        }
    }

    /// A new look. While it is paused the plots go on and the picture stays.
    pub fn take(&mut self, sample: Sample) {
        for card in &sample.cards {
            self.history.entry(card.gpu.index).or_default().take(card);
        }
        self.history.retain(|index, _| sample.cards.iter().any(|card| card.gpu.index == *index));
        if let Some(bdf) = self.wanted
            && let Some(card) = sample.cards.iter().find(|card| card.bdf.is_some_and(|at| at.same_slot(&bdf)))
        {
            self.only = Some(card.gpu.index);
            self.wanted = None;
        }
        if self.paused && self.sample.is_some() {
            return;
        }
        self.sample = Some(sample);
        self.arrange();
    }

    /// The cards that are shown.
    pub(super) fn cards(&self) -> impl Iterator<Item = &CardNow> {
        let cards = self.sample.iter().flat_map(|sample| &sample.cards);
        cards.filter(|card| self.only.is_none_or(|only| only == card.gpu.index))
    }

    fn arrange(&mut self) {
        let mut rows: Vec<Row> = self.cards().flat_map(|card| rows::of(card, &self.users)).collect();
        rows::sort(&mut rows, self.sort, self.reversed);
        self.rows = rows;
        self.from = self.from.min(self.rows.len().saturating_sub(1));
    }

    fn scroll(&mut self, by: isize) -> Act {
        let last = self.rows.len().saturating_sub(self.fits.max(1));
        self.from = self.from.saturating_add_signed(by).min(last);
        Act::Draw
    }

    pub fn key(&mut self, key: Key) -> Act {
        let page = isize::try_from(self.fits.max(2) - 1).unwrap_or(1);
        match key {
            Key::Interrupt | Key::Char('q' | 'Q') => return Act::Quit,
            Key::Suspend => return Act::Suspend,
            Key::Escape if self.help => self.help = false,
            Key::Escape if self.only.is_some() => self.only = None,
            Key::Escape => return Act::Quit,
            Key::Char('h' | '?') => self.help = !self.help,
            Key::Char('p' | ' ') => self.paused = !self.paused,
            Key::Char('s') => {
                let at = Sort::ALL.iter().position(|sort| *sort == self.sort).unwrap_or(0);
                self.sort = Sort::ALL.get(at + 1).copied().unwrap_or(Sort::Memory);
            }
            Key::Char('r') => self.reversed = !self.reversed,
            Key::Char('c') => self.only = self.next_card(),
            Key::Char('a') => self.only = None,
            Key::Char(digit @ '0'..='9') => {
                let wanted = digit.to_digit(10);
                let there =
                    self.sample.iter().flat_map(|sample| &sample.cards).any(|card| Some(card.gpu.index) == wanted);
                if !there {
                    return Act::Nothing;
                }
                self.only = wanted;
            }
            Key::Up | Key::Char('k') => return self.scroll(-1),
            Key::Down | Key::Char('j') => return self.scroll(1),
            Key::PageUp => return self.scroll(-page),
            Key::PageDown => return self.scroll(page),
            Key::Home => return self.scroll(isize::MIN),
            Key::End => return self.scroll(isize::MAX),
            Key::Char(_) | Key::Other => return Act::Nothing,
        }
        self.arrange();
        Act::Draw
    }

    /// All, the first, the second, …, all.
    fn next_card(&self) -> Option<u32> {
        let mut cards = self.sample.iter().flat_map(|sample| &sample.cards).map(|card| card.gpu.index);
        match self.only {
            None => cards.next(),
            Some(now) => cards.skip_while(|index| *index != now).nth(1),
        }
    }
}
