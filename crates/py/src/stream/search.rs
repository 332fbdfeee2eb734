//! Looking for a separator in what has arrived, without looking twice.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The search for a separator.
pub(super) struct Search {
    /// None empty, the shortest first.
    separators: Separators,
    /// Up to here none of them begins.
    pub(super) offset: usize,
}

enum Separators {
    Newline,
    Some(Vec<Vec<u8>>),
}

impl Search {
    pub(super) const fn line() -> Self {
        Self {
            separators: Separators::Newline,
            offset: 0,
        }
    }

    pub(super) fn new(mut separators: Vec<Vec<u8>>) -> PyResult<Self> {
        separators.sort_by_key(Vec::len);
        match separators.first() {
            None => Err(PyValueError::new_err(
                "Separator should contain at least one element",
            )),
            Some(shortest) if shortest.is_empty() => Err(PyValueError::new_err(
                "Separator should be at least one-byte string",
            )),
            Some(_) => Ok(Self {
                separators: Separators::Some(separators),
                offset: 0,
            }),
        }
    }

    /// Where the first separator to end begins and ends.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        let rest = bytes.get(self.offset..)?;
        match &self.separators {
            Separators::Newline => memchr::memchr(b'\n', rest)
                .map(|place| (self.offset + place, self.offset + place + 1)),
            Separators::Some(separators) => separators
                .iter()
                .filter_map(|separator| {
                    let start = self.offset + memchr::memmem::find(rest, separator)?;
                    Some((start, start + separator.len()))
                })
                // Of two that end together, the one tried first: the shorter.
                .min_by_key(|(_, end)| *end),
        }
    }

    pub(super) fn longest(&self) -> usize {
        match &self.separators {
            Separators::Newline => 1,
            Separators::Some(separators) => separators.last().map_or(1, Vec::len),
        }
    }

    pub(super) fn shortest(&self) -> usize {
        match &self.separators {
            Separators::Newline => 1,
            Separators::Some(separators) => separators.first().map_or(1, Vec::len),
        }
    }
}
