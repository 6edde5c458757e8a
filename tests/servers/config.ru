# A Rack application that says which process answers: at once, or at /slow?ms=N after so many milliseconds.
run lambda { |env|
  sleep(env["QUERY_STRING"][/\Ams=(\d+)\z/, 1].to_i / 1000.0) if env["PATH_INFO"] == "/slow"
  body = "#{Process.pid}\n"
  [200, { "Content-Type" => "text/plain", "Content-Length" => body.bytesize.to_s }, [body]]
}
