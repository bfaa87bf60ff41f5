//! Takes away what old guides left.

use super::steps::Steps;
use crate::facts::Facts;

pub(super) fn add(_facts: &Facts, _steps: &mut Steps<'_>) {}

pub(super) fn in_image(_steps: &Steps<'_>) -> bool {
    false
}
