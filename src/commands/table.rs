//! Output in the form of the `one*` commands: plain columns, or JSON for `-j`.

use crate::text::{printable, printable_json};
use comfy_table::{CellAlignment, ContentArrangement, presets};
use serde::Serialize;
use std::io::{ErrorKind, Write};

/// On which side of a column its cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Texts.
    Left,
    /// Numbers, so that they can be compared at a glance.
    Right,
}

/// Columns under upper-case headers, without lines around them.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows. Headers are shown in upper case.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let columns =
            columns.iter().map(|(header, align)| (printable(header).to_uppercase(), *align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row. Cells come from OpenNebula and Ceph, where users name things: nothing in them reaches the
    /// terminal as a command to it. Missing cells stay empty, surplus ones are left out.
    pub fn row<Cell: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = Cell>) -> &mut Self {
        let mut cells: Vec<String> = cells.into_iter().map(|cell| printable(cell.as_ref())).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
        self
    }

    /// The table as text with a last line end, its long cells broken so that it is at most `width` characters
    /// wide, if it can be. `None`: every row is one line, however long, as a pipe wants it.
    pub fn render(&self, width: Option<u16>) -> String {
        let mut table = comfy_table::Table::new();
        table.force_no_tty().load_style(presets::NOTHING);
        table.set_header(self.columns.iter().map(|(header, _)| header.as_str()).collect::<Vec<_>>());
        table.add_rows(self.rows.iter());
        table.set_content_arrangement(match width {
            Some(_) => ContentArrangement::Dynamic,
            None => ContentArrangement::Disabled,
        });
        if let Some(width) = width {
            table.set_width(width);
        }
        for (index, (_, align)) in self.columns.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, 1));
                column.set_cell_alignment(match align {
                    Align::Left => CellAlignment::Left,
                    Align::Right => CellAlignment::Right,
                });
            }
        }
        let mut text = table.trim_fmt();
        text.push('\n');
        text
    }
}

/// The width of the terminal that standard output is, in characters; `None` where it is a pipe or a file.
pub fn terminal_width() -> Option<u16> {
    comfy_table::Table::new().width()
}

/// What `-j` prints: indented JSON with a last line end, free of characters that a terminal would obey.
pub fn json(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let mut text = printable_json(&serde_json::to_string_pretty(value)?);
    text.push('\n');
    Ok(text)
}

/// Writes to standard output. That nobody reads it any more (`onemirror list | head`) is no error.
pub fn print(text: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Table {
        let mut table = Table::new(&[
            ("id", Align::Right),
            ("name", Align::Left),
            ("image", Align::Left),
            ("primary", Align::Left),
            ("behind", Align::Right),
        ]);
        table.row(["0", "db", "one/one-7", "site-a", "0"]);
        table.row(["1042", "a longer name of a VM", "one/one-0-1042-0", "site-b", "123456"]);
        table.row(["7", "\u{e4}\u{4e2d}\u{6587}", "one/one-9", "split brain", "-"]);
        table
    }

    #[test]
    fn columns_stand_under_their_headers() {
        insta::assert_snapshot!(sample().render(None), @r#"
          ID NAME                  IMAGE            PRIMARY     BEHIND
           0 db                    one/one-7        site-a           0
        1042 a longer name of a VM one/one-0-1042-0 site-b      123456
           7 ä中文                 one/one-9        split brain      -
        "#);
    }

    #[test]
    fn a_terminal_gets_no_longer_lines_than_it_has_columns() {
        let text = sample().render(Some(50));
        insta::assert_snapshot!(text, @r#"
          ID NAME         IMAGE        PRIMARY     BEHIND
           0 db           one/one-7    site-a           0
        1042 a longer     one/one-0-10 site-b      123456
             name of a VM 42-0
           7 ä中文        one/one-9    split brain      -
        "#);
        assert!(text.lines().all(|line| line.chars().count() <= 50));
    }

    #[test]
    fn a_pipe_gets_one_line_per_row() {
        let mut table = Table::new(&[("reason", Align::Left)]);
        table.row(["why ".repeat(500)]);
        assert_eq!(table.render(None).lines().count(), 2);
    }

    #[test]
    fn without_rows_the_headers_stand_alone() {
        assert_eq!(Table::new(&[("id", Align::Right), ("name", Align::Left)]).render(None), "ID NAME\n");
    }

    #[test]
    fn cells_cannot_command_the_terminal() {
        let mut table = Table::new(&[("id", Align::Right), ("name", Align::Left)]);
        table.row(["1", "\u{1b}[2J\u{1b}]0;x\u{7}a\nb\tc\r\u{9b}31m\u{202e}d"]);
        insta::assert_snapshot!(table.render(None), @r#"
        ID NAME
         1  [2J ]0;x a b c  31m d
        "#);
    }

    #[test]
    fn rows_of_the_wrong_length_do_not_shift_columns() {
        let mut table = Table::new(&[("a", Align::Left), ("b", Align::Left)]);
        table.row(["1"]).row(["1", "2", "3"]).row(Vec::<String>::new());
        assert_eq!(table.render(None), "A B\n1\n1 2\n\n");
    }

    #[test]
    fn json_is_indented_and_shows_no_control_characters() {
        let value = serde_json::json!({"vm": 42, "name": "\u{1b}[2J\u{7f}\u{202e}", "images": []});
        insta::assert_snapshot!(json(&value).unwrap(), @r#"
        {
          "images": [],
          "name": "\u001b[2J\u007f\u202e",
          "vm": 42
        }
        "#);
    }

    proptest! {
        /// Any texts, any width: no panic, and one line per row where there is no width.
        #[test]
        fn any_text_makes_a_table(cells in proptest::collection::vec(any::<String>(), 0..6), width in proptest::option::of(0u16..200)) {
            let mut table = Table::new(&[("id", Align::Right), ("name", Align::Left)]);
            table.row(&cells).row(&cells);
            let text = table.render(width);
            prop_assert!(!text.contains(|c: char| c.is_control() && c != '\n'));
            if width.is_none() {
                prop_assert_eq!(text.matches('\n').count(), 3);
            }
        }
    }
}
