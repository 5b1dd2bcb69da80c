/** The live page. */

import { Page } from "./page.js";

const main = document.querySelector("main[data-cursor]");
if (main instanceof HTMLElement) new Page(main).start();
