//! The best group of whole cards, exactly up to [`MOST`] and by improvement above.

/// So many cards are decided exactly: 2^16 sets at most, some milliseconds.
const MOST: usize = 16;

/// `size` of the cards 0 to `count`-1, `must` among them.
///
/// Exactly: the group that belongs to a split of all cards into groups of `size` (the rest is one smaller group) with the
/// highest sum of scores; among such groups the one with the highest score of its own; among those the one that leaves what is
/// nearest together (one card alone is taken where it breaks the least); among those the first by number.
pub(super) fn best(count: usize, must: &[usize], size: usize, score: &dyn Fn(usize, usize) -> u32) -> Vec<usize> {
    if size == 0 || size >= count {
        return (0..count.min(size)).collect();
    }
    let scores: Vec<Vec<u32>> = (0..count).map(|a| (0..count).map(|b| score(a, b)).collect()).collect();
    if size == 1 {
        // no group has a score: what it costs the others decides
        let cost = |at: &usize| scores[*at].iter().sum::<u32>();
        return must.first().copied().or_else(|| (0..count).min_by_key(cost)).into_iter().collect();
    }
    if count > MOST {
        return improved(&scores, must, size);
    }
    let mut splits = Splits::new(&scores, size);
    let all: u32 = (1_u32 << count) - 1;
    let needed = must.iter().fold(0_u32, |mask, at| mask | 1 << at);
    let mut found: Option<((u32, u32, u32), u32)> = None;
    groups(all & !needed, size - must.len(), needed, &mut |group| {
        let (own, left) = (splits.own(group), all & !group);
        let value = (own + splits.rest(left), own, splits.own(left));
        // groups come in the order of their first members, so that an equal one later does not displace it
        if found.is_none_or(|(best, _)| value > best) {
            found = Some((value, group));
        }
    });
    let group = found.map_or(0, |(_, group)| group);
    (0..count).filter(|at| group >> at & 1 == 1).collect()
}

/// Calls `each` with `base` and every choice of `size` members of `from`, in lexical order of the members chosen.
fn groups<F: FnMut(u32)>(from: u32, size: usize, base: u32, each: &mut F) {
    if size == 0 {
        return each(base);
    }
    let mut left = from;
    while left.count_ones() as usize >= size {
        let lowest = left & left.wrapping_neg();
        left &= !lowest;
        groups(left, size - 1, base | lowest, each);
    }
}

/// The scores of all sets, and those of their best splits as they are asked for.
struct Splits {
    size: usize,
    own: Vec<u32>,
    rest: Vec<u32>,
}

/// Not worked out yet: no sum of at most 120 pairs of at most 1860 is that high.
const UNKNOWN: u32 = u32::MAX;

impl Splits {
    fn new(scores: &[Vec<u32>], size: usize) -> Self {
        let sets = 1_usize << scores.len();
        let mut own = vec![0; sets];
        for set in 1..sets {
            let others = set & (set - 1);
            let row = &scores[set.trailing_zeros() as usize];
            let pairs = row.iter().enumerate().filter(|(at, _)| others >> at & 1 == 1).map(|(_, score)| *score);
            own[set] = own[others] + pairs.sum::<u32>();
        }
        Splits { size, own, rest: vec![UNKNOWN; sets] }
    }

    /// The sum over the pairs of a set.
    fn own(&self, set: u32) -> u32 {
        self.own[set as usize]
    }

    /// The highest sum of a split of a set: groups of the size, and one smaller group where they do not come out even.
    fn rest(&mut self, set: u32) -> u32 {
        let count = set.count_ones() as usize;
        if count <= self.size {
            return self.own(set);
        }
        let known = self.rest[set as usize];
        if known != UNKNOWN {
            return known;
        }
        // the first member is in a full group, or in the smaller one
        let first = set & set.wrapping_neg();
        let mut best = 0;
        let smaller = count % self.size;
        for size in [self.size, smaller].into_iter().filter(|size| *size > 0) {
            if count - size <= self.size {
                // what is left is one group: most of the work ends here
                let own = &self.own;
                let both = |group: u32| own[group as usize] + own[(set & !group) as usize];
                groups(set & !first, size - 1, first, &mut |group| best = best.max(both(group)));
                continue;
            }
            let mut choices = Vec::new();
            groups(set & !first, size - 1, first, &mut |group| choices.push(group));
            for group in choices {
                // after the smaller group all others are full: what is left is a multiple of the size, and stays so
                best = best.max(self.own(group) + self.rest(set & !group));
            }
        }
        self.rest[set as usize] = best;
        best
    }
}

/// More cards than can be decided exactly: grown from each card to the nearest ones, then each member exchanged while that
/// brings the group nearer together. The group alone counts.
fn improved(scores: &[Vec<u32>], must: &[usize], size: usize) -> Vec<usize> {
    let near =
        |at: usize, group: &[usize]| group.iter().filter(|&&other| other != at).map(|&b| scores[at][b]).sum::<u32>();
    let sum = |group: &[usize]| group.iter().map(|&at| near(at, group)).sum::<u32>();
    let mut best: Option<(u32, Vec<usize>)> = None;
    for seed in 0..scores.len() {
        let mut group = must.to_vec();
        if group.len() < size && !group.contains(&seed) {
            group.push(seed);
        }
        while group.len() < size {
            let free = (0..scores.len()).filter(|at| !group.contains(at));
            let Some(next) = free.max_by_key(|&at| (near(at, &group), std::cmp::Reverse(at))) else { break };
            group.push(next);
        }
        // each exchange raises the sum; the bound is for safety alone
        for _ in 0..4 * size {
            let mut exchange: Option<(u32, usize, usize)> = None;
            for (place, &out) in group.iter().enumerate().filter(|(_, out)| !must.contains(out)) {
                let stays: Vec<usize> = group.iter().copied().filter(|&at| at != out).collect();
                let was = near(out, &stays);
                for at in (0..scores.len()).filter(|at| !group.contains(at)) {
                    let gain = near(at, &stays).saturating_sub(was);
                    if gain > exchange.map_or(0, |(gain, ..)| gain) {
                        exchange = Some((gain, place, at));
                    }
                }
            }
            let Some((_, place, at)) = exchange else { break };
            group[place] = at;
        }
        group.sort_unstable();
        let total = sum(&group);
        if best.as_ref().is_none_or(|(highest, _)| total > *highest) {
            best = Some((total, group));
        }
    }
    best.map(|(_, group)| group).unwrap_or_default()
}
