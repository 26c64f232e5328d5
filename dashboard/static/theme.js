// Runs before the page is drawn, so that it never flashes in the other colours.
"use strict";
try {
  const theme = localStorage.getItem("soniq-theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch { /* no storage: the system decides */ }
