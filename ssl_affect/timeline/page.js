"use strict";
// Data: columns, rows (text, as in predictions.csv), people with their cells, and facts about the video.
const data = JSON.parse(document.getElementById("data").textContent);
const video = document.querySelector("video");
const column = Object.fromEntries(data.columns.map((name, index) => [name, index]));
const people = data.people.map((person) => ({ ...person, section: document.getElementById("person-" + person.person) }));
let now = 0; // seconds on the player's clock
let zoom = 1;

function clock(seconds) {
  const whole = Math.floor(seconds), rest = Math.floor((seconds - whole) * 100);
  const two = (value) => String(value).padStart(2, "0");
  return `${Math.floor(whole / 60)}:${two(whole % 60)}.${two(rest)}`;
}

function cellAt(person, seconds) {
  // Cells ascend: [start, end, number of the row].
  let low = 0, high = person.cells.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (person.cells[middle][1] <= seconds) low = middle + 1; else high = middle;
  }
  const cell = person.cells[low];
  return cell && cell[0] <= seconds ? cell : null;
}

function words(person, seconds) {
  const cell = cellAt(person, seconds);
  if (!cell) return "not in the picture";
  const row = data.rows[cell[2]], value = (name) => row[column[name]];
  const percent = (text) => Math.round(100 * Number(text)) + " %";
  const parts = [];
  for (const task of data.tasks) {
    if (task.activation === "softmax") {
      const top = value(task.task + ".top");
      if (!top) return "face not seen";
      const best = Math.max(...task.names.map((name) => Number(value(`${task.task}.${name}.prob`))));
      parts.push(`${top} ${percent(best)} (uncertainty ${Number(value(task.task + ".entropy")).toFixed(2)})`);
    } else if (task.activation === "sigmoid") {
      const found = task.names.map((name) => [name, Number(value(`${task.task}.${name}.prob`)), value(`${task.task}.${name}.prob`)]);
      if (found.some((one) => one[2] === "")) return "face not seen";
      const present = found.filter((one) => one[1] >= 0.5).sort((a, b) => b[1] - a[1]);
      parts.push(`${task.task}: ${present.map((one) => `${one[0]} ${percent(one[1])}`).join(", ") || "none above 50 %"}`);
    } else {
      const found = task.names.map((name) => [name, value(`${task.task}.${name}.value`), value(`${task.task}.${name}.spread`)]);
      if (found.some((one) => one[1] === "")) return "face not seen";
      parts.push(found.map((one) => `${one[0]} ${Number(one[1]).toFixed(2)}${one[2] ? ` ± ${Number(one[2]).toFixed(2)}` : ""}`).join(", "));
    }
  }
  return parts.join("; ");
}

function show() {
  for (const person of people) {
    const text = words(person, now), inner = person.section.querySelector(".inner");
    person.section.querySelector(".head").style.left = `${100 * Math.min(1, now / data.duration)}%`;
    person.section.querySelector(".now").textContent = `${clock(now)}: ${text}`;
    inner.setAttribute("aria-valuenow", now.toFixed(2));
    inner.setAttribute("aria-valuetext", `${clock(now)}, ${text}`);
  }
  drawBoxes();
}

function drawBoxes() {
  const stage = document.querySelector(".stage");
  stage.querySelectorAll(".box").forEach((box) => box.remove());
  if (!document.getElementById("boxes").checked) return;
  for (const person of people) {
    const cell = cellAt(person, now), row = cell && data.rows[cell[2]];
    if (!row || row[column.left_px] === "") continue;
    const box = document.createElement("div"), name = document.createElement("span");
    box.className = "box";
    name.textContent = `person ${person.person}`;
    box.style.left = `${100 * Number(row[column.left_px]) / data.width}%`;
    box.style.top = `${100 * Number(row[column.top_px]) / data.height}%`;
    box.style.width = `${100 * Number(row[column.width_px]) / data.width}%`;
    box.style.height = `${100 * Number(row[column.height_px]) / data.height}%`;
    box.append(name);
    stage.append(box);
  }
}

function seek(seconds) {
  now = Math.max(0, Math.min(data.duration, seconds));
  if (video.readyState > 0) video.currentTime = Math.min(now, video.duration || now);
  show();
}

function keepInView() {
  for (const person of people) {
    const scroll = person.section.querySelector(".scroll"), over = person.section.querySelector(".over");
    if (zoom === 1) continue;
    const label = over.offsetLeft, x = label + over.offsetWidth * now / data.duration - scroll.scrollLeft;
    if (x < label || x > scroll.clientWidth - 10) scroll.scrollLeft += x - scroll.clientWidth / 2;
  }
}

function tick() {
  if (!video.paused && !video.ended) {
    now = video.currentTime;
    show();
    keepInView();
    requestAnimationFrame(tick);
  }
}

function drawAxes() {
  for (const person of people) {
    const axis = person.section.querySelector(".axis");
    const wanted = 75 * data.duration / Math.max(1, axis.clientWidth);
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600].find((one) => one >= wanted) || 7200;
    axis.replaceChildren();
    for (let at = 0; at < data.duration - step / 3 && axis.childElementCount < 2000; at += step) {
      const mark = document.createElement("span"), text = clock(at + 0.001);
      mark.textContent = step < 1 ? text : text.slice(0, -3);
      mark.style.left = `${100 * at / data.duration}%`;
      axis.append(mark);
    }
  }
}

function csvText() {
  const cell = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return [data.columns, ...data.rows].map((row) => row.map(cell).join(",") + "\n").join("");
}

document.getElementById("csv").addEventListener("click", () => {
  const link = document.createElement("a"), address = URL.createObjectURL(new Blob([csvText()], { type: "text/csv" }));
  link.href = address;
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
});

for (const person of people) {
  const inner = person.section.querySelector(".inner"), over = person.section.querySelector(".over");
  inner.addEventListener("click", (event) => {
    const place = over.getBoundingClientRect();
    if (event.clientX >= place.left) seek(data.duration * (event.clientX - place.left) / place.width);
  });
  inner.addEventListener("keydown", (event) => {
    const starts = person.cells.map((cell) => cell[0]);
    const moves = {
      ArrowRight: () => (event.shiftKey ? now + 5 : starts.find((start) => start > now + 0.005) ?? now),
      ArrowLeft: () => (event.shiftKey ? now - 5 : starts.findLast((start) => start < now - 0.005) ?? now),
      Home: () => 0,
      End: () => data.duration,
    };
    if (moves[event.key]) {
      seek(moves[event.key]());
      keepInView();
    } else if (event.key === " ") {
      if (video.paused) video.play(); else video.pause();
    } else return;
    event.preventDefault();
  });
}

video.addEventListener("play", () => requestAnimationFrame(tick));
for (const event of ["seeked", "timeupdate", "loadedmetadata"]) {
  video.addEventListener(event, () => {
    if (event === "loadedmetadata" && now > 0) video.currentTime = now;
    else if (video.readyState > 0 && Math.abs(video.currentTime - now) > 0.001 && !video.seeking) { now = video.currentTime; show(); }
  });
}
video.addEventListener("error", () => { document.getElementById("unplayable").hidden = false; });
document.getElementById("boxes").addEventListener("change", drawBoxes);
document.getElementById("zoom").addEventListener("input", (event) => {
  zoom = 2 ** Number(event.target.value);
  document.documentElement.style.setProperty("--zoom", zoom);
  drawAxes();
  keepInView();
});
const chosen = document.getElementById("file");
if (chosen) {
  chosen.addEventListener("change", () => {
    if (chosen.files.length) { document.getElementById("unplayable").hidden = true; video.src = URL.createObjectURL(chosen.files[0]); }
  });
}
window.addEventListener("resize", drawAxes);
drawAxes();
show();
