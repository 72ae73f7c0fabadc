drawn((value) => {
  const scrolled = place.querySelector("pre");
  const atEnd = scrolled && scrolled.scrollHeight - scrolled.scrollTop - scrolled.clientHeight < 30;
  place.innerHTML = value || "";
  const log = place.querySelector("pre");
  if (log && (atEnd || !scrolled)) log.scrollTop = log.scrollHeight;
});
