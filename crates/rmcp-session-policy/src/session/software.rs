//! [`Software`]: the name and version of a client's software.

/// The bytes that are kept of the name and of the version.
const LONGEST: usize = 128;

/// The name and version of a client's software, as `initialize` gave them, each cut at 128 bytes.
///
/// They are one text, so a session makes one allocation for them, and the name is read with one look beyond the record.
#[derive(Clone, Debug)]
pub(crate) struct Software {
    /// A character whose number is the length of the name in bytes, the name, and the version.
    text: Box<str>,
}

impl Software {
    pub(crate) fn new(name: &str, version: &str) -> Self {
        let (name, version) = (cut(name), cut(version));
        let length = char::from_u32(name.len() as u32).unwrap_or_default();
        Self { text: [length.encode_utf8(&mut [0; 4]), name, version].concat().into() }
    }

    pub(crate) fn name(&self) -> &str {
        self.parts().0
    }

    pub(crate) fn version(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        let mut rest = self.text.chars();
        let length = rest.next().map_or(0, |length| length as usize);
        rest.as_str().split_at_checked(length).unwrap_or_default()
    }
}

/// The first bytes of a text, up to the end of a character.
fn cut(text: &str) -> &str {
    let mut end = LONGEST.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_and_the_version_are_cut_between_characters() {
        // 127 bytes and a character of two.
        let long = format!("{}é{}", "a".repeat(127), "b".repeat(1_000));
        for (name, version) in
            [("", ""), ("claude-code", ""), ("", "1.0"), ("é", "ü 2"), (&long, "1"), ("agent", &long)]
        {
            let software = Software::new(name, version);
            let short = |text: &str| if text.len() > 128 { "a".repeat(127) } else { text.to_owned() };
            assert_eq!((software.name(), software.version()), (&*short(name), &*short(version)));
        }
        // As long as it may be.
        let exact = "a".repeat(128);
        assert_eq!(Software::new(&exact, &exact).version(), exact);
    }
}
