// The box above the boxes of the list of events; without JavaScript each is ticked by itself.

const all = document.querySelector("#bus-choose-all");
const boxes = [...document.querySelectorAll("input[name=_selected_action]")];
const choice = document.querySelector("#bus-export input[name=select_across][value='0']");

/** Whoever ticks a row means the ticked rows. */
function chosen() {
  const ticked = boxes.filter((box) => box instanceof HTMLInputElement && box.checked).length;
  if (all instanceof HTMLInputElement) {
    all.checked = ticked === boxes.length;
    all.indeterminate = ticked > 0 && ticked < boxes.length;
  }
  if (choice instanceof HTMLInputElement && ticked > 0) choice.checked = true;
}

if (all instanceof HTMLInputElement && boxes.length > 0) {
  all.hidden = false;
  all.addEventListener("change", () => {
    for (const box of boxes) if (box instanceof HTMLInputElement) box.checked = all.checked;
    chosen();
  });
  document.querySelector("#result_list tbody")?.addEventListener("change", chosen);
}
