//! Suggestions for mistyped words.

/// Returns the candidate that is most similar to a mistyped word, if any is similar enough.
pub fn nearest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    // If more than a third of the characters differ, the candidate is a different word.
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), *candidate))
        .filter(|(distance, candidate)| {
            *distance <= limit
                || (word.len() > 3 && (candidate.starts_with(&word) || word.starts_with(candidate)))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Returns ` (did you mean "…"?)` with the nearest candidate, or an empty text.
pub fn did_you_mean(word: &str, candidates: &[&str]) -> String {
    nearest(word, candidates).map_or_else(String::new, |suggestion| {
        format!(" (did you mean \"{suggestion}\"?)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_similar_words_are_suggested() {
        let keys = ["token", "token_file", "url", "ping_interval"];
        assert_eq!(nearest("tokn", &keys), Some("token"));
        assert_eq!(nearest("ping-interval", &keys), Some("ping_interval"));
        assert_eq!(nearest("ulr", &keys), Some("url"));
        assert_eq!(nearest("password", &keys), None);
    }
}
