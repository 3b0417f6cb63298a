// Films: a slider and a button over pictures of which, without this script, the last one shows.
for (const film of document.querySelectorAll(".film")) {
  const frames = [...film.querySelectorAll("img")];
  const slider = film.querySelector("input");
  const button = film.querySelector("button");
  const output = film.querySelector("output");
  let timer = 0;

  function show(k) {
    frames.forEach((frame, i) => { frame.hidden = i !== k; });
    slider.value = k;
    output.textContent = frames[k].dataset.name;
    slider.setAttribute("aria-valuetext", frames[k].dataset.name);
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    button.textContent = "Play";
  }

  function play() {
    if (Number(slider.value) === frames.length - 1) show(0);
    button.textContent = "Pause";
    timer = setInterval(() => {
      const next = Number(slider.value) + 1;
      if (next < frames.length) show(next);
      if (next >= frames.length - 1) stop();
    }, 600);
  }

  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  button.addEventListener("click", () => (timer ? stop() : play()));
  film.querySelector(".controls").hidden = frames.length < 2;
  show(frames.length - 1);
}
