//! placeholder
use crate::published::Column;
use crate::results::Results;
/// The page.
pub fn page(_results: &Results, _published: &[Column]) -> String {
    String::new()
}
