//! Tables with aligned columns, as text for a terminal.

use std::fmt;

/// Rows of cells with aligned columns.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table with these headings; with empty ones the heading line is left out.
    pub(crate) fn new<H: AsRef<str>>(headings: impl IntoIterator<Item = H>) -> Self {
        let headings = headings
            .into_iter()
            .map(|heading| heading.as_ref().to_uppercase());
        let headings: Vec<String> = headings.collect();
        let rows = if headings.iter().all(String::is_empty) {
            Vec::new()
        } else {
            vec![headings]
        };
        Self { rows }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        for row in &self.rows {
            let cells = row
                .iter()
                .enumerate()
                .map(|(column, cell)| format!("{cell:0$}", width(column)));
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_empty_headings_are_left_out() {
        let mut table = Table::new(["a", "long"]);
        table.row(["größer".to_owned(), "x".to_owned()]);
        assert_eq!(table.to_string(), "A       LONG\ngrößer  x\n");
        let mut bare = Table::new(["", ""]);
        bare.row(["k".to_owned(), String::new()]);
        assert_eq!(bare.to_string(), "k\n");
    }
}
