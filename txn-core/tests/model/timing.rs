//! Windows, deadlines, limits, and when earnings can be paid out.
